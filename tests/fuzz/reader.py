"""Coverage-guided fuzzing of the stream decoder, with Atheris. It is a program, not part of the test suite.

It mutates bodies by their structure (events and the JSON in them) as well as by bytes, and checks what must be true of
any body: see `check`. A finding becomes a fixture or a test. Atheris is not a dependency of the project:

    python -m venv fuzz && fuzz/bin/pip install atheris msgspec
    PYTHONPATH=. fuzz/bin/python tests/fuzz/reader.py chat -max_total_time=300 -timeout=10 CORPUS tests/fixtures/chat
    PYTHONPATH=. fuzz/bin/python tests/fuzz/reader.py responses ...

New inputs are saved in CORPUS, a folder that is empty at first. The checksum of an input determines its options, form
and cuts, so that an input alone reproduces a finding.
"""

import importlib
import json
import random
import sys
import time
import zlib
from itertools import pairwise
from typing import Any, cast

atheris: Any = importlib.import_module("atheris")  # not in the project's environment, so there are no types

with atheris.instrument_imports(include=["tailrace.worker", "tailrace.schemas"]):
    from tailrace.schemas.codec import decode_outcome, encode_entry, encode_outcome
    from tailrace.schemas.deltas import Api, AssistantDelta, Delta, ReasoningDelta
    from tailrace.schemas.interface_options import InterfaceOptions
    from tailrace.schemas.outcome import Outcome
    from tailrace.worker.interface.chat import chat_interface as chat
    from tailrace.worker.interface.responses import responses_interface as responses
    from tailrace.worker.interface.stream_decoder import Form, StreamDecoder

INSTRUMENTED = (chat, responses)  # the decoder would import them later, without instrumentation
WORDS = "x <think> </think> {} send_message inner_thoughts stop length error null call_1 function".split()
VALUES: tuple[Any, ...] = (
    *(None, True, 0, 1, -1, 2**70, 1.5, "", " ", "\ud83d", "\ude00", '{"inner_thoughts":', *WORDS),
    *([], {}, [[]], [{}], [None], {"error": {"message": "m", "code": 429}}, {"text": "t"}),
    [{"type": "text", "text": "t"}],
)
SECONDS, SECONDS_PER_BYTE = 0.5, 0.0005  # generous, for instrumented code; quadratic time is far above


def read(api: Api, options: InterfaceOptions, form: Form, pieces: list[bytes]) -> tuple[list[Delta], Outcome]:
    """All deltas and the outcome of a body."""
    decoder = StreamDecoder(api, options, form)
    deltas = [delta for piece in pieces for delta in decoder.feed(piece)]
    deltas += decoder.close()
    return deltas, decoder.finish()


def texts(deltas: list[Delta]) -> dict[str, str]:
    """The joined texts of deltas."""
    found: dict[str, str] = {}
    for delta in deltas:
        if isinstance(delta, ReasoningDelta):
            parts = {"reasoning": delta.reasoning}
        elif isinstance(delta, AssistantDelta):
            parts = {"content": delta.content, "refusal": delta.refusal}
        else:
            part = delta.tool_call
            parts = {f"name {delta.call}": part.name, f"id {delta.call}": part.tool_call_id}
            parts[f"arguments {delta.call}"] = part.arguments
        for key, text in parts.items():
            if text:
                found[key] = found.get(key, "") + text
    return found


def check(api: Api, given: bytes) -> None:
    """Reads a body at once and in pieces.

    Raises:
        AssertionError: cutting changed the result, the deltas do not add up to the outcome, a result cannot be encoded
            as JSON, or decoding took too long for the size.
    """
    rng = random.Random(zlib.crc32(given))  # noqa: S311 - the same choices for the same input
    options = InterfaceOptions(
        use_assistant_message=rng.random() < 0.5,
        put_inner_thoughts_in_kwarg=rng.random() < 0.6,
        think_tags=rng.choice(("keep", "reasoning")),
    )
    form: Form = rng.choice(("sse", "sse", "jsonl"))
    body = given if form == "sse" else given.replace(b"data: ", b"").replace(b"\n\n", b"\n")
    began = time.process_time()
    deltas, outcome = read(api, options, form, [body])
    took_s = time.process_time() - began
    assert took_s < SECONDS + SECONDS_PER_BYTE * len(body), f"{took_s:.2f} s for {len(body)} bytes"

    places = sorted({0, len(body), *(rng.randrange(len(body) + 1) for _ in range(rng.choice((1, 3, 20))))})
    cut_deltas, cut_outcome = read(api, options, form, [body[start:end] for start, end in pairwise(places)])
    assert texts(cut_deltas) == texts(deltas), "cutting changed the deltas"
    assert cut_outcome == outcome, "cutting changed the outcome"

    for delta in deltas:
        encode_entry(delta)
    assert decode_outcome(encode_outcome(outcome)) == outcome
    assert (outcome.status == "failed") == (outcome.error is not None)
    said = texts(deltas)
    for key in ("content", "refusal", "reasoning"):
        told: str | None = getattr(outcome, key)
        if api == "chat":
            assert said.get(key) == told, key
        elif options.think_tags == "keep" and not any("differ" in note for note in outcome.notes):
            # with interleaved messages the joints of reasoning move, but no character is lost
            assert _characters(said.get(key)) == _characters(told), key


def mutate(given: bytes, max_size: int, seed: int) -> bytes:
    """Changes, repeats, removes or moves an event or a value in its JSON; sometimes it mutates the bytes."""
    rng = random.Random(seed)  # noqa: S311 - libFuzzer's own choice
    if rng.random() < 0.3:
        return atheris.Mutate(given, max_size)
    events = given.split(b"\n\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(events))
        match rng.randrange(8):
            case 0:
                events.insert(rng.randrange(len(events) + 1), events[at])
            case 1 if len(events) > 1:
                del events[at]
            case 2:
                other = rng.randrange(len(events))
                events[at], events[other] = events[other], events[at]
            case _:
                events[at] = _mutated_event(events[at], rng)
    return b"\n\n".join(events)[:max_size]


def _mutated_event(event: bytes, rng: random.Random) -> bytes:
    head, field, data = event.rpartition(b"data: ")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return event
    changed = _mutated(value, rng)
    return head + field + json.dumps(changed, ensure_ascii=rng.random() < 0.5).encode("utf-8", "replace")


def _mutated(value: Any, rng: random.Random) -> Any:
    places = _places(value)
    if not places:
        return rng.choice(VALUES)
    holder, key = rng.choice(places)
    _, from_key = other = rng.choice(places)
    match rng.randrange(5):
        case 0:
            holder[key] = other[0][from_key] if other[0] is not holder else rng.choice(VALUES)
        case 1 if isinstance(holder, dict):
            del cast("dict[Any, Any]", holder)[key]
        case 2 if isinstance(holder[key], str):
            text: str = holder[key]
            at = rng.randrange(len(text) + 1)
            holder[key] = text[:at] + rng.choice(("", '"', "\\", "}", ",", "\ud83d", "<think>", text[:at])) + text[at:]
        case 3 if isinstance(holder[key], list):
            holder[key].append(rng.choice((*holder[key], *VALUES[:3])))
        case _:
            holder[key] = rng.choice(VALUES)
    return json.loads(json.dumps(value)) if _is_tree(value) else None


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON value: its container, and its key there."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        keys: list[Any] = []
        if isinstance(holder, list):
            keys += range(len(cast("list[Any]", holder)))
        elif isinstance(holder, dict):
            keys += cast("dict[str, Any]", holder)
        found += [(holder, key) for key in keys]
        waiting += [holder[key] for key in keys]
    return found


def _is_tree(value: Any) -> bool:
    try:
        json.dumps(value)
    except (ValueError, RecursionError):  # a value moved into itself
        return False
    return True


def _characters(text: str | None) -> list[str]:
    return sorted((text or "").replace("\n", ""))


def main() -> None:
    """Runs until libFuzzer's limits: the first argument is the API, the rest are libFuzzer's."""
    api: Api = "responses" if sys.argv.pop(1) == "responses" else "chat"

    def one(given: bytes) -> None:
        check(api, given)

    atheris.Setup(sys.argv, one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
