"""The simulator's scripted answer to one request, its faults, and the end that the request must have.

Pure. Every text contains the request's id, so that an answer to the wrong request is noticed.
"""

import json
from random import Random
from typing import Any, Literal

import msgspec

ExpectedEnd = Literal["completed", "failed", "either"]
JsonObject = dict[str, Any]

_WORDS = (
    "wheel race sluice weir gate grain flour stone river under over Größe café 水車 🌊 e\u0301 "
    'a"quote back\\slash brace} tab\there new\nline'
).split(" ")


class ScriptedCall(msgspec.Struct, frozen=True):
    """A tool call. `arguments` is the raw text, `shown` the same without inner thoughts."""

    name: str
    arguments: str
    shown: str


class ScriptedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer, as the outcome of a completed request must contain it.

    `expected_end`: how the request ends if nothing but the model's server affects it. `either`: it fails if a fault
    strikes after the first delta, and completes if the faulty call was lost for another reason.
    """

    content: str | None = None
    reasoning: str | None = None
    calls: tuple[ScriptedCall, ...] = ()
    expected_end: ExpectedEnd = "completed"


class Limits(msgspec.Struct, frozen=True):
    """How long answers take, in seconds, and at what rate, in chunks a second."""

    shortest_s: float
    longest_s: float
    chunks_per_s: tuple[float, float]


CHUNK_CHARS = 8


def draw(rng: Random, request_id: str, limits: Limits) -> tuple[JsonObject, ScriptedAnswer, float]:
    """Draws a request, its scripted answer, and about how long the answer takes, in seconds."""
    kind = rng.choice(("text", "reasoning", "letta", "assistant", "parallel", "responses", "long"))
    lasts_s = limits.longest_s if kind == "long" else rng.uniform(limits.shortest_s, limits.longest_s / 2)
    rate = rng.uniform(*limits.chunks_per_s)
    chars = max(40, round(lasts_s * rate * CHUNK_CHARS))
    steps, answer = _script(rng, kind, request_id, chars)
    faults, expected_end, policy = _upstream_faults(rng)
    scenario: JsonObject = {
        "key": request_id,
        "steps": steps,
        "chunking": {"chars": CHUNK_CHARS, "seed": rng.randrange(1 << 16)},
        "pace": {"chunks_per_s": rate, "jitter": 0.3},
        "faults": faults,
        "interleave": kind == "parallel",
    }
    request: JsonObject = {"id": request_id, "model": "sim", "extra_body": {"simulator": scenario}}
    if kind in ("responses", "reasoning") and rng.random() < 0.7:
        request |= {"api": "responses", "input": f"say {request_id}"}
    else:
        request |= {"messages": [{"role": "user", "content": f"say {request_id}"}]}
    if kind == "assistant":
        request["interface"] = {"use_assistant_message": True}
    if policy == "fail":
        request["on_failure"] = "fail"
    if any(fault["kind"] == "hang" and "calls" not in fault for fault in faults):
        request["timeout_s"] = 2.5
    return request, msgspec.structs.replace(answer, expected_end=expected_end), lasts_s


def _text(rng: Random, request_id: str, chars: int) -> str:
    words = [request_id]
    while sum(map(len, words)) + len(words) < chars:
        words.append(rng.choice(_WORDS))
    return " ".join(words)


def _script(rng: Random, kind: str, request_id: str, chars: int) -> tuple[list[JsonObject], ScriptedAnswer]:
    match kind:
        case "reasoning":
            thought, text = _text(rng, request_id, chars // 3), _text(rng, request_id, chars)
            return [{"kind": "reasoning", "text": thought}, _text_step(text)], ScriptedAnswer(
                content=text, reasoning=thought
            )
        case "letta" | "assistant":
            thought, text = _text(rng, request_id, chars // 4), _text(rng, request_id, chars)
            call = _call("send_message", thought, {"message": text, "request_heartbeat": False})
            if kind == "assistant":
                return [_call_step(call)], ScriptedAnswer(content=text, reasoning=thought, calls=(call,))
            return [_call_step(call)], ScriptedAnswer(reasoning=thought, calls=(call,))
        case "parallel":
            thought = _text(rng, request_id, chars // 4)
            calls = (
                _call("get_weather", thought, {"city": _text(rng, request_id, chars // 3), "at": [1e-5, None, True]}),
                _call("get_time", None, {"zone": _text(rng, request_id, chars // 3)}),
                _call("nothing", None, {}),
            )
            return [_call_step(call) for call in calls], ScriptedAnswer(reasoning=thought, calls=calls)
        case _:
            text = _text(rng, request_id, chars)
            return [_text_step(text)], ScriptedAnswer(content=text)


def _text_step(text: str) -> JsonObject:
    return {"kind": "text", "text": text}


def _call_step(call: ScriptedCall) -> JsonObject:
    return {"kind": "tool_call", "name": call.name, "arguments": call.arguments}


def _call(name: str, thought: str | None, arguments: JsonObject) -> ScriptedCall:
    shown = json.dumps(arguments)
    raw = shown if thought is None else json.dumps({"inner_thoughts": thought} | arguments)
    return ScriptedCall(name, raw, shown)


def _upstream_faults(rng: Random) -> tuple[list[JsonObject], ExpectedEnd, Literal["restart", "fail"]]:
    """Draws faults of the model's server, the end they lead to, and the request's policy."""
    dice = rng.random()
    if dice < 0.55:
        return [], "completed", rng.choice(("restart", "fail"))
    if dice < 0.82:
        return [_passing_fault(rng)], "completed", "restart"
    if dice < 0.92:
        return [_lasting_fault(rng)], "failed", rng.choice(("restart", "fail"))
    return [{"kind": rng.choice(("cut", "rst")), "after": rng.randint(0, 12), "calls": 1}], "either", "fail"


def _passing_fault(rng: Random) -> JsonObject:
    """Draws a fault of the first call or two; a later call succeeds."""
    kind = rng.choice(("cut", "rst", "end", "error", "garbage", "stall", "pause", "429", "500", "503", "hang", "html"))
    fault: JsonObject = {"calls": rng.randint(1, 2)}
    match kind:
        case "pause":  # shorter than the idle limit, so nothing fails
            return {"kind": "stall", "after": rng.randint(0, 10), "for_s": 0.5}
        case "429":
            return fault | {"kind": "status", "status": 429, "retry_after_s": round(rng.uniform(0.05, 0.5), 2)}
        case "500" | "503":
            return fault | {"kind": "status", "status": int(kind)}
        case "hang" | "html":
            return {"kind": kind, "calls": 1}
        case "stall":
            return {"kind": kind, "after": rng.randint(0, 10), "calls": 1}
        case _:
            return fault | {"kind": kind, "after": rng.randint(0, 15)}


def _lasting_fault(rng: Random) -> JsonObject:
    """Draws a fault of every call; the request must fail."""
    kind = rng.choice(("400", "401", "quota", "500", "error", "cut", "html", "hang"))
    match kind:
        case "400" | "401" | "500":
            return {"kind": "status", "status": int(kind)}
        case "quota":
            return {"kind": "status", "status": 429, "code": "insufficient_quota"}
        case "error" | "cut":
            return {"kind": kind, "after": rng.randint(0, 4)}
        case _:
            return {"kind": kind}
