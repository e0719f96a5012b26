"""The request that a producer submits.

It checks what would break streaming or Tailrace, and leaves everything else to the model's server.
"""

import hashlib
import re
from typing import Annotated, Any, Literal, Self, cast

import msgspec
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetPydanticSchema,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema

from tailrace.schemas.deltas import Api
from tailrace.schemas.errors import RequestRejected, RequestTooLarge
from tailrace.schemas.ids import check_request_id
from tailrace.schemas.interface_options import InterfaceOptions
from tailrace.schemas.json_values import find_fault
from tailrace.schemas.priority import DEFAULT_PRIORITY, Priority
from tailrace.schemas.trace_context import parse_traceparent

MAX_REQUEST_BYTES = 8 * 1024 * 1024
MAX_METADATA_BYTES = 16 * 1024
MAX_TIMEOUT_S = 86_400.0
TENANT_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")

JsonObject = dict[str, Any]
Name = Annotated[str, Field(min_length=1, max_length=256)]

_ALWAYS_STREAMED = "leave it out: Tailrace always streams"
_REFUSED: dict[str, str] = {
    "stream": _ALWAYS_STREAMED,
    "n": "leave it out or give 1: a request has one answer; submit several requests for several answers",
    "background": "leave it out: every request runs in the background, on a worker",
    "audio": "leave it out: only reasoning, tool calls and text are streamed",
    "extra_headers": "leave it out: headers may contain keys, which never go into a job; set them on the worker",
    "extra_query": "leave it out: set it in the worker's OPENAI_BASE_URL",
    "api_key": "leave it out: keys never go into a job; set OPENAI_API_KEY where the worker runs",
}


def _accept_mapping(source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
    """Accepts options as a mapping: strict mode takes only instances of a dataclass. The fields stay strict."""
    schema = handler(source)
    cast("dict[str, Any]", handler.resolve_ref_schema(schema))["strict"] = False
    return schema


class SharedParameters(BaseModel):
    """Parameters that have the same name in both APIs."""

    model: str = Field(min_length=1, max_length=512)
    tools: list[JsonObject] | None = None
    tool_choice: str | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    stream_options: JsonObject | None = None
    user: str | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


class ChatParameters(BaseModel):
    """Parameters of Chat Completions only. Source: OpenAI API reference, `POST /chat/completions`."""

    messages: list[JsonObject] | None = None
    response_format: JsonObject | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    n: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    modalities: list[str] | None = None
    prediction: JsonObject | None = None
    web_search_options: JsonObject | None = None
    functions: list[JsonObject] | None = None
    function_call: str | JsonObject | None = None


class ResponsesParameters(BaseModel):
    """Parameters of the Responses API only. Source: OpenAI API reference, `POST /responses`."""

    input: str | list[JsonObject] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | JsonObject | None = None
    prompt: JsonObject | None = None
    reasoning: JsonObject | None = None
    text: JsonObject | None = None
    include: list[str] | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    truncation: str | None = None
    context_management: list[JsonObject] | None = None


_CHAT_ONLY = frozenset(ChatParameters.model_fields)
_RESPONSES_ONLY = frozenset(ResponsesParameters.model_fields)
_OURS = frozenset(
    {
        *("api", "id", "interface", "tenant", "priority", "metadata", "timeout_s", "on_failure", "extra_body"),
        *("retry_of", "traceparent"),
    }
)


class GenerationRequest(ResponsesParameters, ChatParameters, SharedParameters):
    """One request for one streamed answer.

    Attributes (in addition to the parameters of the chosen API, under their own names):
        api: `chat` (Chat Completions) or `responses`.
        id: an id chosen by the caller, 1 to 64 of `A-Z a-z 0-9 _ -`, which makes submitting again idempotent.
        interface: how the answer becomes deltas.
        tenant: the tenant, 1 to 64 of `A-Z a-z 0-9 _ . -`. Tenants are served in turn, and each may have a limit.
        priority: `high` is always served before `normal`, and `normal` before `low`.
        metadata: kept with the outcome, never sent to the model's server.
        timeout_s: the longest time from submit to the end, in seconds; the worker's default if left out.
        on_failure: what happens if the model's server fails after the first delta. `restart` starts a new attempt,
            which discards what was shown; `fail` ends the request with the partial answer. A failure before the first
            delta is always retried.
        extra_body: a vendor's own parameters, sent unchanged, as in the SDK.
        retry_of: the id of the dead request that this one retries; `tailrace dead retry` sets it.
        traceparent: the span that submits the request (W3C Trace Context), used only for traces; the client sets it if
            OpenTelemetry has a current span.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    api: Api = "chat"
    id: str | None = None
    interface: Annotated[InterfaceOptions, GetPydanticSchema(_accept_mapping)] = InterfaceOptions()
    tenant: str | None = None
    priority: Priority = DEFAULT_PRIORITY
    metadata: JsonObject | None = None
    timeout_s: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S)] | None = None
    on_failure: Literal["restart", "fail"] = "restart"
    extra_body: JsonObject | None = None
    retry_of: Name | None = None
    traceparent: str | None = None

    @field_validator("id")
    @classmethod
    def _id_is_usable(cls, value: str | None) -> str | None:
        try:
            return value if value is None else check_request_id(value)
        except RequestRejected as error:
            raise ValueError(str(error)) from None

    @field_validator("tenant")
    @classmethod
    def _tenant_is_usable(cls, value: str | None) -> str | None:
        return value if value is None else check_tenant(value)

    @field_validator("traceparent")
    @classmethod
    def _traceparent_is_one(cls, value: str | None) -> str | None:
        return value if value is None else str(parse_traceparent(value))

    @field_validator("messages")
    @classmethod
    def _messages_have_roles(cls, value: list[JsonObject] | None) -> list[JsonObject] | None:
        if value == []:
            raise ValueError("give at least one message")
        for position, message in enumerate(value or ()):
            if not isinstance(message.get("role"), str):
                raise ValueError(f'message {position} needs a "role", such as "user"')
        return value

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_breaks_streaming(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        fields: JsonObject = given  # pyright: ignore[reportUnknownVariableType] - narrowed from Any, keys are checked
        for name, reason in _REFUSED.items():
            if name in fields and not (name == "n" and fields[name] in (None, 1)):
                raise ValueError(f"{name}: {reason}")
        return fields

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        wrong, other = (_RESPONSES_ONLY, "responses") if self.api == "chat" else (_CHAT_ONLY, "chat")
        for name in sorted(self.model_fields_set & wrong):
            if getattr(self, name) is not None:
                raise ValueError(f'{name}: belongs to api "{other}"; this request is for api "{self.api}"')
        if self.api == "chat" and self.messages is None:
            raise ValueError("messages: give at least one message")
        if self.api == "responses" and self.input is None and self.prompt is None:
            raise ValueError("input: give a text or a list of items")
        if "audio" in (self.modalities or ()):
            raise ValueError("modalities: only text is streamed, leave audio out")
        self._check_extra_body()
        _check_size("metadata", self.metadata, MAX_METADATA_BYTES)
        return self

    def _check_extra_body(self) -> None:
        for name in self.extra_body or ():
            if name in _REFUSED:
                raise ValueError(f"extra_body.{name}: {_REFUSED[name]}")
            if name in type(self).model_fields and name not in _OURS:
                raise ValueError(f"extra_body.{name}: give it under its own name, beside extra_body")

    def upstream_parameters(self) -> JsonObject:
        """The parameters for the model's server: those given, without Tailrace's own and without nulls."""
        return {
            name: value
            for name in type(self).model_fields
            if name not in _OURS and name != "n" and (value := getattr(self, name)) is not None
        }

    def encoded(self) -> bytes:
        """The request as msgpack, the form in which it is stored and its size is counted.

        Raises:
            RequestTooLarge: it is larger than `MAX_REQUEST_BYTES`.
            RequestRejected: a value has no JSON form.
        """
        try:
            content = self.model_dump(exclude_none=True)
            if fault := find_fault(content):
                raise RequestRejected(fault)
            packed = msgspec.msgpack.encode(content)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise RequestRejected(f"the request has a value with no JSON form: {error}") from error
        if len(packed) > MAX_REQUEST_BYTES:
            raise RequestTooLarge(
                f"the request has {len(packed):,} bytes, the limit is {MAX_REQUEST_BYTES:,}: "
                "send large files by URL or file id"
            )
        return packed

    def digest(self) -> str:
        """Hex SHA-256 of the content without the id. The order of keys and explicit defaults do not change it.

        `traceparent` is left out too, since a repeated submit is the same request under another span.
        """
        content = self.model_dump(exclude_defaults=True, exclude={"id", "n", "traceparent"})  # n is 1 or absent
        return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()


def check_tenant(tenant: str) -> str:
    """Returns the name if it is a valid tenant.

    Raises:
        ValueError: it does not match `[A-Za-z0-9_.-]{1,64}`.
    """
    if TENANT_PATTERN.match(tenant) is None:
        raise ValueError(f"{tenant[:80]!r} cannot be a tenant: use 1 to 64 of the characters A-Z a-z 0-9 _ . -")
    return tenant


def parse_request(given: bytes | str | JsonObject) -> GenerationRequest:
    """Reads a request from JSON text or a dict.

    Raises:
        RequestTooLarge: the JSON text is too long.
        RequestRejected: anything else is wrong; the message names the parameter and what to do.
    """
    try:
        if isinstance(given, dict):
            return GenerationRequest.model_validate(given)
        if len(given) > 2 * MAX_REQUEST_BYTES:
            raise RequestTooLarge(f"the request has {len(given):,} bytes, the limit is {MAX_REQUEST_BYTES:,}")
        return GenerationRequest.model_validate_json(given)
    except ValidationError as error:
        raise RequestRejected(_sentence(error)) from error


def decode_request(packed: bytes) -> GenerationRequest:
    """Reads a request that `encoded` wrote.

    Raises:
        RequestRejected: it is not a request.
    """
    try:
        return GenerationRequest.model_validate(msgspec.msgpack.decode(packed))
    except (ValidationError, msgspec.MsgspecError) as error:
        raise RequestRejected(f"the stored request cannot be read: {error}") from error


def _check_size(name: str, value: JsonObject | None, limit_bytes: int) -> None:
    if value is None:
        return
    try:
        size = len(msgspec.json.encode(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name}: has a value with no JSON form ({error})") from None
    if size > limit_bytes:
        raise ValueError(f"{name}: has {size:,} bytes, the limit is {limit_bytes:,}")


def _sentence(error: ValidationError) -> str:
    """One line from pydantic's report: the first three errors, each with its place."""
    findings = error.errors(include_url=False, include_input=False)
    sentences: list[str] = []
    for finding in findings[:3]:
        place = ".".join(str(part) for part in finding["loc"])
        reason = finding["msg"].removeprefix("Value error, ")
        if finding["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            reason = "unknown parameter; a vendor's own parameters go into extra_body"
        sentences.append(f"{place}: {reason}" if place and not reason.startswith(f"{place}:") else reason)
    more = f" (and {len(findings) - 3} more)" if len(findings) > 3 else ""
    return "; ".join(sentences) + more
