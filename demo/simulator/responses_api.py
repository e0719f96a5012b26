"""The paths under `/v1/responses`: create, retrieve, resume, cancel.

Owns what is kept of each response. Knows no sockets; reads the clock, since the state of a response depends on it.
"""

from __future__ import annotations

import time
from functools import partial
from urllib.parse import parse_qs

import msgspec

from tailrace.demo.simulator.call import Call, Request, due_faults, made_up, take_call
from tailrace.demo.simulator.errors import ApiError, invalid_type, unknown_url
from tailrace.demo.simulator.ledger import Entry, Ledger
from tailrace.demo.simulator.playback import schedule
from tailrace.demo.simulator.reply import Reply, json_reply, replaced, stream_reply, whole_reply
from tailrace.demo.simulator.request import read_body, read_responses
from tailrace.demo.simulator.responses import Answer
from tailrace.demo.simulator.scenario import ErrorEvent, Fault, JsonObject
from tailrace.demo.simulator.stored import Responses, Stored


class ResponsesApi:
    """The Responses API. `chunks_per_s` is the pace of streams whose scenario has none; 0: as fast as they are read."""

    def __init__(self, ledger: Ledger, chunks_per_s: float) -> None:
        self._ledger, self._chunks_per_s = ledger, chunks_per_s
        self._responses = Responses()

    def answer(self, request: Request, rest: list[str], entry: Entry) -> Reply:
        """The reply; `rest` is the path after `/v1/responses`.

        Raises:
            ApiError: 400 or 404.
            ScenarioError: the scenario is not valid.
        """
        match (request.method, rest):
            case ("POST", []):
                return self._create(request, entry)
            case ("GET", [id]):
                return self._retrieve(request, self._responses.get(id), entry)
            case ("POST", [id, "cancel"]):
                return json_reply(_body(self._responses.get(id).cancel(time.monotonic())))
            case _:
                raise unknown_url(request.method, request.path)

    def reset(self) -> None:
        """Removes every response; bodies that are being sent continue."""
        self._responses.clear()

    def _create(self, request: Request, entry: Entry) -> Reply:
        asked = read_responses(read_body(request.body))
        call = take_call(request, entry, asked, self._ledger)
        self._responses.check_previous(asked.body.get("previous_response_id"))
        background, store = asked.body.get("background") is True, asked.body.get("store") is not False
        if background and not store:
            raise ApiError(400, "Background responses have to be stored: 'store' cannot be false.", param="store")
        delay_s = call.scenario.pace.first_byte_delay_s
        if reply := replaced(call.faults, delay_s):
            return reply
        answer = Answer(asked, call.plan, call.scenario, made_up, int(time.time()))
        stored = Stored(answer, call.scenario, self._chunks_per_s, time.monotonic())
        if store:
            self._responses.add(stored)
        if background:
            return self._attach(stored, call.faults, -1) if asked.stream else json_reply(_body(answer.now("queued")))
        return self._foreground(answer, call)

    def _foreground(self, answer: Answer, call: Call) -> Reply:
        scenario, plan = call.scenario, call.plan
        if not call.asked.stream:
            return whole_reply(
                _body(answer.final()),
                scenario,
                call.faults,
                usual_chunks_per_s=self._chunks_per_s,
                tokens=plan.output_tokens,
            )
        return stream_reply(
            schedule(answer.events(), scenario, self._chunks_per_s),
            scenario,
            call.faults,
            answer.error,
            delay_s=scenario.pace.first_byte_delay_s,
            tokens=plan.input_tokens,
        )

    def _attach(self, stored: Stored, faults: tuple[Fault, ...], after: int) -> Reply:
        """A stream of a background response, from the event after that number."""
        error = partial(_error_after, stored.answer, after + 1)
        reply = stream_reply(stored.events(after, time.monotonic()), stored.scenario, faults, error)
        reply.attached = stored.attached
        return reply

    def _retrieve(self, request: Request, stored: Stored, entry: Entry) -> Reply:
        query = parse_qs(request.query)
        if query.get("stream", ["false"])[-1] != "true":
            return json_reply(_body(stored.snapshot(time.monotonic())))
        if not stored.answer.background:
            raise ApiError(400, "Only a response created with 'background' can be streamed again.", param="stream")
        after = query.get("starting_after", ["-1"])[-1]
        if not after.removeprefix("-").isdecimal():
            raise invalid_type("starting_after", "an integer", after)
        entry.stream = True
        # Faults without a count apply only to the first stream, so that a client that attaches again gets further.
        counted = msgspec.structs.replace(
            stored.scenario, faults=tuple(fault for fault in stored.scenario.faults if fault.calls is not None)
        )
        return self._attach(stored, due_faults(counted, entry, self._ledger, stored.answer.id), int(after))


def _error_after(answer: Answer, before: int, fault: ErrorEvent, sent: int) -> bytes:
    return answer.error(fault, before + sent)


def _body(response: JsonObject) -> bytes:
    return msgspec.json.format(msgspec.json.encode(response), indent=2) + b"\n"
