"""The scenarios that have a name: model `sim-<name>` plays the scenario `<name>`.

Owns their texts and the choice of a scenario for a request. They are written as they would be in JSON.
"""

from __future__ import annotations

import re
from typing import Any, cast

from tailrace.demo.simulator.scenario import JsonObject, Scenario, ScenarioError, parse_scenario, read_object

_TEXT = "A tailrace carries the water away from the mill, so that the wheel turns freely."
_WEATHER = '{"inner_thoughts": "They ask about the weather; I look it up.", "city": "Vienna", "unit": "celsius"}'


def _call(name: str, arguments: Any, **more: Any) -> JsonObject:
    return {"kind": "tool_call", "name": name, "arguments": arguments, **more}


NAMED: dict[str, JsonObject] = {
    "text": {"steps": [{"kind": "text", "text": _TEXT}]},
    "unicode": {"steps": [{"kind": "text", "text": 'Größe: 3 µm, naïve café, 水車 🌊👩‍🔧 — "quoted" \\ and\nlines.'}]},
    "reasoning": {
        "steps": [
            {
                "kind": "reasoning",
                "parts": ["**Reading the question**\n\nWater leaves by the race.", "**Answering**\n\nBriefly."],
            },
            {"kind": "text", "text": _TEXT},
        ]
    },
    "letta": {
        "steps": [
            _call(
                "send_message",
                '{"inner_thoughts": "A new face. I greet them \\"warmly\\" and ask for a name.", '
                '"message": "Hello! I am glad you came. \\ud83c\\udf0a\\nWhat is your name?", '
                '"request_heartbeat": false}',
            )
        ]
    },
    "tool": {"steps": [_call("get_weather", _WEATHER)]},
    "parallel": {
        "interleave": True,
        "steps": [
            _call("get_weather", _WEATHER),
            _call("get_time", '{"inner_thoughts": "And the time there.", "zone": "Europe/Vienna"}'),
            _call("add_note", '{"tags": ["a", "b"], "at": 1e-5, "text": "ends in a brace }", "done": null}'),
        ],
    },
    "custom": {"steps": [{"kind": "custom_tool_call", "name": "shell", "input": 'echo "hello, mill" | wc -c'}]},
    "search": {
        "steps": [{"kind": "web_search", "query": "what is a tailrace"}, {"kind": "text", "text": _TEXT}],
    },
    "refusal": {"steps": [{"kind": "refusal", "text": "I am sorry, but I cannot help with that."}]},
    "length": {
        "finish_reason": "length",
        "steps": [_call("get_weather", '{"inner_thoughts": "They ask about the weather.", "city": "Vien')],
    },
    "long": {"steps": [{"kind": "text", "chunks": 500}]},
    "empty": {"steps": []},
    "usage_in_every_chunk": {"usage": "every_chunk", "steps": [{"kind": "text", "text": _TEXT}]},
    "no_done": {"done": False, "steps": [{"kind": "text", "text": _TEXT}]},
    "rate_limit": {"faults": [{"kind": "status", "status": 429, "retry_after_s": 1}]},
    "quota": {"faults": [{"kind": "status", "status": 429, "code": "insufficient_quota"}]},
    "overloaded": {"faults": [{"kind": "status", "status": 503}]},
    "hang": {"faults": [{"kind": "hang"}]},
    "html": {"faults": [{"kind": "html"}]},
    "cut": {"faults": [{"kind": "cut", "after": 5}], "steps": [{"kind": "text", "text": _TEXT}]},
    "stall": {"faults": [{"kind": "stall", "after": 5}], "steps": [{"kind": "text", "text": _TEXT}]},
}

_LONG = re.compile(r"long-(\d{1,6})")
_MODEL = re.compile(r"sim|gpt-.+|o\d.*|ft:.+|codex-.+|chatgpt-.+")


def _named(name: str) -> JsonObject:
    if match := _LONG.fullmatch(name):
        return {"steps": [{"kind": "text", "chunks": int(match[1])}]}
    if name not in NAMED:
        raise ScenarioError(f"simulator scenario: no scenario named {name!r}; there are {', '.join(NAMED)} and long-N")
    return NAMED[name]


def knows_model(model: str) -> bool:
    """Whether the simulator serves this model: `sim`, `sim-<name>`, and the names of OpenAI's own."""
    if model.startswith("sim-"):
        name = model.removeprefix("sim-")
        return name in NAMED or _LONG.fullmatch(name) is not None
    return _MODEL.fullmatch(model) is not None


def models() -> list[str]:
    """The models that `GET /v1/models` lists."""
    return ["sim", *(f"sim-{name}" for name in NAMED), "gpt-4o", "gpt-4o-mini", "gpt-5", "o3", "o4-mini"]


def choose_scenario(header: str | None, body: JsonObject, model: str) -> Scenario:
    """The scenario of a request: from the header, else from the body, else by the model's name.

    Args:
        header: value of `x-simulator-scenario`, a JSON object.
        body: the request; `simulator` or `metadata.simulator` in it is an object, or the JSON of one.
        model: the requested model; `sim-<name>` provides what the scenario leaves open.

    Raises:
        ScenarioError: the scenario is not valid.
    """
    given: JsonObject = {}
    if header is not None:
        given = read_object(header, "x-simulator-scenario")
    else:
        metadata: Any = body.get("metadata")
        inside = cast(JsonObject, metadata).get("simulator") if isinstance(metadata, dict) else None
        found: Any = body.get("simulator", inside)
        if isinstance(found, str):  # OpenAI's metadata has only strings
            given = read_object(found, "metadata")
        elif isinstance(found, dict):
            given = cast(JsonObject, found)
        elif found is not None:
            raise ScenarioError("simulator scenario: expected a JSON object, or the text of one")
    name = given.get("name") or (model.removeprefix("sim-") if model.startswith("sim-") else None)
    base = _named(name) if isinstance(name, str) else {}
    return parse_scenario({**base, **given})
