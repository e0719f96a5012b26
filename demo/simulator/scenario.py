"""A scenario: what the simulator does with one request, written in JSON.

Owns the scenario's form and its checks. Knows nothing of HTTP, clocks or the shapes of OpenAI's chunks.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import msgspec

JsonObject = dict[str, Any]

MOST_CHUNKS = 1_000_000  # of generated text, which is kept in memory


class ScenarioError(ValueError):
    """The scenario cannot be used; the message names the part and the reason."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    pass


class Text(_Part, frozen=True, kw_only=True, tag="text"):
    """Text of the answer. `chunks` asks for that many chunks of generated text instead of a given text."""

    text: str = ""
    chunks: int = 0


class Reasoning(_Part, frozen=True, kw_only=True, tag="reasoning"):
    """Native reasoning. `parts` are the summary parts of the Responses API; chat joins them with a blank line.

    `field` is its name in chat deltas: OpenAI's chat has none, compatible servers have two.
    """

    text: str = ""
    parts: tuple[str, ...] = ()
    field: Literal["reasoning_content", "reasoning"] = "reasoning_content"


class Refusal(_Part, frozen=True, kw_only=True, tag="refusal"):
    """A refusal in the model's own words."""

    text: str


class ToolCall(_Part, frozen=True, kw_only=True, tag="tool_call"):
    """A function call. Arguments are an object, or a text that is sent unchanged, JSON or not."""

    name: str
    arguments: str | JsonObject = "{}"
    id: str | None = None

    @property
    def raw(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else msgspec.json.encode(self.arguments).decode()


class CustomToolCall(_Part, frozen=True, kw_only=True, tag="custom_tool_call"):
    """A call of a custom tool, whose input is free text."""

    name: str
    input: str = ""
    id: str | None = None


class WebSearch(_Part, frozen=True, kw_only=True, tag="web_search"):
    """A hosted web search with its progress events; Responses API only."""

    query: str


Step = Text | Reasoning | Refusal | ToolCall | CustomToolCall | WebSearch


class _Fault(_Part, frozen=True, kw_only=True):
    """`calls`: the fault applies only to this many first calls with the scenario's key; to all if absent."""

    calls: int | None = None


class Cut(_Fault, frozen=True, kw_only=True, tag="cut"):
    """The connection is closed after this many events, without the chunk that ends the body."""

    after: int


class Rst(_Fault, frozen=True, kw_only=True, tag="rst"):
    """The connection is reset after this many events."""

    after: int


class End(_Fault, frozen=True, kw_only=True, tag="end"):
    """The body ends cleanly after this many events, without a finish reason or [DONE]."""

    after: int


class Stall(_Fault, frozen=True, kw_only=True, tag="stall"):
    """A pause after this many events, for `for_s` seconds or endlessly."""

    after: int
    for_s: float | None = None


class ErrorEvent(_Fault, frozen=True, kw_only=True, tag="error"):
    """An error event after this many events; then the body ends cleanly."""

    after: int
    message: str = "The server had an error while it processed the request."
    type: str = "server_error"
    code: str | None = None


class Garbage(_Fault, frozen=True, kw_only=True, tag="garbage"):
    """One event whose data is not JSON (or is `data`) after this many events; then the stream continues."""

    after: int
    data: str = '{"id": "chatcmpl-'


class Status(_Fault, frozen=True, kw_only=True, tag="status"):
    """An error instead of the answer. `retry_after_s` sets `retry-after`, `retry-after-ms` and the reset headers."""

    status: int
    code: str | None = None
    message: str | None = None
    retry_after_s: float | None = None


class Hang(_Fault, frozen=True, kw_only=True, tag="hang"):
    """The request is accepted and never answered."""


class Html(_Fault, frozen=True, kw_only=True, tag="html"):
    """A proxy's page, with status 200."""


StreamFault = Cut | Rst | End | Stall | ErrorEvent | Garbage
Fault = StreamFault | Status | Hang | Html


class Chunking(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How texts are cut. `chars`: characters per chunk; with a seed, a random number from 1 to 2 * chars - 1.

    `split_bytes`: the body is cut again into pieces of 1 to this many bytes, each written by itself.
    """

    chars: int = 4
    seed: int | None = None
    split_bytes: int = 0


class Pace(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When events are sent. `jitter`, 0 to 1, lengthens or shortens each gap by up to that part of it.

    `chunks_per_s`: None is the server's own pace, 0 is as fast as the client reads.
    """

    chunks_per_s: float | None = None
    jitter: float = 0.0
    first_byte_delay_s: float = 0.0


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All options of a scenario. Without steps the answer is made from the request itself.

    `name`: the named scenario provides the steps and everything not given. Calls are counted under `key`, for faults
    with `calls`; by default a digest of the request. `usage`: as requested, or overriding the request.
    """

    name: str | None = None
    steps: tuple[Step, ...] | None = None
    chunking: Chunking = Chunking()
    pace: Pace = Pace()
    faults: tuple[Fault, ...] = ()
    finish_reason: str | None = None
    usage: Literal["asked", "always", "never", "every_chunk"] = "asked"
    interleave: bool = False
    done: bool = True
    keepalive_s: float | None = None
    seed: int = 0
    key: str | None = None


_AT_LEAST: dict[str, tuple[tuple[str, float], ...]] = {
    "chunking": (("chars", 1), ("split_bytes", 0)),
    "pace": (("chunks_per_s", 0), ("jitter", 0), ("first_byte_delay_s", 0)),
    "faults": (("after", 0), ("calls", 0), ("for_s", 0), ("status", 400), ("retry_after_s", 0)),
    "steps": (("chunks", 0),),
}


def _check_numbers(where: str, part: object) -> None:
    for field, least in _AT_LEAST[where]:
        number = getattr(part, field, None)
        if number is not None and number < least:
            raise ScenarioError(f"simulator scenario: {where}: {field} must be at least {least:g}, not {number:g}")


def parse_scenario(given: JsonObject) -> Scenario:
    """A scenario from its JSON object.

    Raises:
        ScenarioError: an unknown name, a wrong type, or a number out of bounds.
    """
    try:
        scenario = msgspec.convert(given, Scenario)
    except msgspec.ValidationError as error:
        raise ScenarioError(f"simulator scenario: {error}") from error
    _check_numbers("chunking", scenario.chunking)
    _check_numbers("pace", scenario.pace)
    for fault in scenario.faults:
        _check_numbers("faults", fault)
        if isinstance(fault, Status) and fault.status > 599:
            raise ScenarioError(f"simulator scenario: faults: status must be 400 to 599, not {fault.status}")
    for step in scenario.steps or ():
        _check_numbers("steps", step)
        if isinstance(step, Text) and step.chunks > MOST_CHUNKS:
            raise ScenarioError(f"simulator scenario: steps: chunks must be at most {MOST_CHUNKS}, not {step.chunks}")
    if scenario.pace.jitter > 1:
        raise ScenarioError(f"simulator scenario: pace: jitter must be 0 to 1, not {scenario.pace.jitter:g}")
    if scenario.keepalive_s is not None and scenario.keepalive_s < 0.001:
        raise ScenarioError("simulator scenario: keepalive_s must be at least 0.001")
    return scenario


def read_object(text: bytes | str, where: str) -> JsonObject:
    """The JSON object in `text`; `where` names its place in the error."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ScenarioError(f"simulator scenario in {where}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ScenarioError(f"simulator scenario in {where}: expected a JSON object")
    return cast(JsonObject, value)
