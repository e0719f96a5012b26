"""Routes requests to replies: the simulator's paths and their handlers.

Pure except for the clock and the identifiers it generates. Knows no sockets.
"""

from __future__ import annotations

import time

import msgspec

from tailrace.demo.simulator import chat
from tailrace.demo.simulator.call import Request, made_up, take_call
from tailrace.demo.simulator.errors import ApiError, check_key, model_not_found, unknown_url
from tailrace.demo.simulator.ledger import Entry, Ledger
from tailrace.demo.simulator.library import knows_model, models
from tailrace.demo.simulator.playback import schedule
from tailrace.demo.simulator.reply import Reply, error_reply, json_reply, replaced, stream_reply, whole_reply
from tailrace.demo.simulator.request import read_body, read_chat
from tailrace.demo.simulator.responses_api import ResponsesApi
from tailrace.demo.simulator.scenario import CustomToolCall, JsonObject, ScenarioError, ToolCall

_MODELS_CREATED = 1_700_000_000


class App:
    """Everything that the simulator serves. The server updates `open_connections`."""

    def __init__(self, ledger: Ledger, *, key: str | None, chunks_per_s: float) -> None:
        self.ledger = ledger
        self.open_connections = 0
        self._key = key
        self._chunks_per_s = chunks_per_s
        self._responses = ResponsesApi(ledger, chunks_per_s)

    def answer(self, request: Request, entry: Entry) -> Reply:
        """The reply to a request; details of the request are recorded in its entry."""
        try:
            return self._route(request, entry)
        except ScenarioError as error:
            return error_reply(ApiError(400, str(error), param="simulator", code="invalid_scenario"))
        except ApiError as error:
            return error_reply(error)

    def _route(self, request: Request, entry: Entry) -> Reply:
        method, path = request.method, request.path.rstrip("/")
        if path.startswith("/__sim"):
            return self._control(method, path)
        check_key(request.headers.get("authorization"), self._key)
        allowed = {"/v1/chat/completions": "POST", "/v1/responses": "POST", "/v1/models": "GET"}.get(path, method)
        if method != allowed:
            raise ApiError(405, f"Not allowed to {method} on {path}: use {allowed}.")
        match (method, path.split("/")[2:]):
            case ("POST", ["chat", "completions"]):
                return self._chat(request, entry)
            case (_, ["responses", *rest]):
                return self._responses.answer(request, rest, entry)
            case ("GET", ["models"]):
                return json_reply(_json({"object": "list", "data": [_model(name) for name in models()]}))
            case ("GET", ["models", name]) if knows_model(name):
                return json_reply(_json(_model(name)))
            case ("GET", ["models", name]):
                raise model_not_found(name)
            case _:
                raise unknown_url(method, request.path)

    def _control(self, method: str, path: str) -> Reply:
        match (method, path):
            case ("GET", "/__sim/requests"):
                return json_reply(self.ledger.report(self.open_connections, time.monotonic()))
            case ("POST", "/__sim/reset"):
                self.ledger.reset()
                self._responses.reset()
                return json_reply(b"{}")
            case _:
                raise unknown_url(method, path)

    def _chat(self, request: Request, entry: Entry) -> Reply:
        body = read_body(request.body)
        call = take_call(request, entry, read_chat(body), self.ledger)
        chat.check(call.plan)
        asked, scenario, plan = call.asked, call.scenario, call.plan
        if reply := replaced(call.faults, scenario.pace.first_byte_delay_s):
            return reply
        calls = sum(isinstance(part.step, ToolCall | CustomToolCall) for part in plan.parts)
        stamp = chat.Stamp(
            id=made_up("chatcmpl-", 29),
            created=int(time.time()),
            model=asked.model,
            ids=tuple(made_up("call_", 24) for _ in range(calls)),
        )
        if not asked.stream:
            return whole_reply(
                chat.whole(plan, scenario, stamp),
                scenario,
                call.faults,
                usual_chunks_per_s=self._chunks_per_s,
                tokens=plan.output_tokens,
            )
        stream = chat.Stream(plan, scenario, stamp, asked.body.get("stream_options") or {})
        return stream_reply(
            schedule(stream.events(), scenario, self._chunks_per_s),
            scenario,
            call.faults,
            stream.error,
            delay_s=scenario.pace.first_byte_delay_s,
            tokens=plan.input_tokens,
        )


def _model(name: str) -> JsonObject:
    return {"id": name, "object": "model", "created": _MODELS_CREATED, "owned_by": "tailrace-simulator"}


def _json(value: JsonObject) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
