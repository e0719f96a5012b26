"""What the simulator is told to say to one request, what it does wrong, and what the request must come to by it.

Pure. Every text holds the request's id, so that an answer that went to the wrong request is noticed.
"""

import json
from random import Random
from typing import Any, Literal

import msgspec

Fate = Literal["completed", "failed", "either"]
JsonObject = dict[str, Any]

_WORDS = (
    "wheel race sluice weir gate grain flour stone river under over Größe café 水車 🌊 e\u0301 "
    'a"quote back\\slash brace} tab\there new\nline'
).split(" ")


class ToldCall(msgspec.Struct, frozen=True):
    """A tool call. `arguments` is the raw text, `shown` the same without its inner thoughts."""

    name: str
    arguments: str
    shown: str


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer, as the outcome of a completed request must hold it.

    `fate`: how the request ends if nothing but the model's server has a say in it. `either`: it fails after the first
    delta if a fault meets it there, and completes if the faulty call was lost to something else.
    """

    content: str | None = None
    reasoning: str | None = None
    calls: tuple[ToldCall, ...] = ()
    fate: Fate = "completed"


class Limits(msgspec.Struct, frozen=True):
    """How long answers take: seconds, and chunks a second."""

    shortest_s: float
    longest_s: float
    chunks_per_s: tuple[float, float]


CHUNK_CHARS = 8


def draw(rng: Random, request_id: str, limits: Limits) -> tuple[JsonObject, Told, float]:
    """A request, what it must come to, and about how long its answer takes, in seconds."""
    kind = rng.choice(("text", "reasoning", "letta", "assistant", "parallel", "responses", "long"))
    lasts_s = limits.longest_s if kind == "long" else rng.uniform(limits.shortest_s, limits.longest_s / 2)
    rate = rng.uniform(*limits.chunks_per_s)
    chars = max(40, round(lasts_s * rate * CHUNK_CHARS))
    steps, told = _said(rng, kind, request_id, chars)
    faults, fate, policy = _wrong(rng)
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
    return request, msgspec.structs.replace(told, fate=fate), lasts_s


def _text(rng: Random, request_id: str, chars: int) -> str:
    words = [request_id]
    while sum(map(len, words)) + len(words) < chars:
        words.append(rng.choice(_WORDS))
    return " ".join(words)


def _said(rng: Random, kind: str, request_id: str, chars: int) -> tuple[list[JsonObject], Told]:
    match kind:
        case "reasoning":
            thought, text = _text(rng, request_id, chars // 3), _text(rng, request_id, chars)
            return [{"kind": "reasoning", "text": thought}, _speak(text)], Told(content=text, reasoning=thought)
        case "letta" | "assistant":
            thought, text = _text(rng, request_id, chars // 4), _text(rng, request_id, chars)
            call = _call("send_message", thought, {"message": text, "request_heartbeat": False})
            if kind == "assistant":
                return [_tool(call)], Told(content=text, reasoning=thought, calls=(call,))
            return [_tool(call)], Told(reasoning=thought, calls=(call,))
        case "parallel":
            thought = _text(rng, request_id, chars // 4)
            calls = (
                _call("get_weather", thought, {"city": _text(rng, request_id, chars // 3), "at": [1e-5, None, True]}),
                _call("get_time", None, {"zone": _text(rng, request_id, chars // 3)}),
                _call("nothing", None, {}),
            )
            return [_tool(call) for call in calls], Told(reasoning=thought, calls=calls)
        case _:
            text = _text(rng, request_id, chars)
            return [_speak(text)], Told(content=text)


def _speak(text: str) -> JsonObject:
    return {"kind": "text", "text": text}


def _tool(call: ToldCall) -> JsonObject:
    return {"kind": "tool_call", "name": call.name, "arguments": call.arguments}


def _call(name: str, thought: str | None, arguments: JsonObject) -> ToldCall:
    shown = json.dumps(arguments)
    raw = shown if thought is None else json.dumps({"inner_thoughts": thought} | arguments)
    return ToldCall(name, raw, shown)


def _wrong(rng: Random) -> tuple[list[JsonObject], Fate, Literal["restart", "fail"]]:
    """Faults of the model's server, what they come to, and the request's policy."""
    dice = rng.random()
    if dice < 0.55:
        return [], "completed", rng.choice(("restart", "fail"))
    if dice < 0.82:
        return [_passing(rng)], "completed", "restart"
    if dice < 0.92:
        return [_lasting(rng)], "failed", rng.choice(("restart", "fail"))
    return [{"kind": rng.choice(("cut", "rst")), "after": rng.randint(0, 12), "calls": 1}], "either", "fail"


def _passing(rng: Random) -> JsonObject:
    """Strikes the first call or two: a later one succeeds."""
    kind = rng.choice(("cut", "rst", "end", "error", "garbage", "stall", "pause", "429", "500", "503", "hang", "html"))
    fault: JsonObject = {"calls": rng.randint(1, 2)}
    match kind:
        case "pause":  # shorter than the idle limit: nothing fails
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


def _lasting(rng: Random) -> JsonObject:
    """Strikes every call: the request must fail."""
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
