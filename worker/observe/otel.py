"""Traces and metrics for OpenTelemetry: a span for each request, its wait, each attempt and each call of the model.

Owns their names, which are those of the semantic conventions for generative AI
(open-telemetry/semantic-conventions-genai, in development); our own begin with `tailrace.`. Only this module imports
OpenTelemetry. Texts of a request are sent only if the settings ask for them. Nothing is done for a delta. OpenTelemetry
exports in a thread of its own, configured by its `OTEL_*` variables.
"""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from threading import Thread
from time import time_ns
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from tailrace.schemas.ids import EntryId
from tailrace.schemas.outcome import Outcome
from tailrace.schemas.request import GenerationRequest
from tailrace.schemas.trace_context import SAMPLED, ids_of, parse_traceparent
from tailrace.worker.observe.attempt_events import AttemptStart, AttemptSubscriber

CLOSE_S = 3.0
_S = 1_000_000_000
_DURATIONS_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864)
"""Bucket bounds that the conventions ask for."""

Attributes = dict[str, Any]


class OtelTraces:
    """Spans and metrics of a process.

    Args:
        environment: that of the process. OpenTelemetry reads it too; this class reads only a few variables.
        base_url: the URL of the model's server.
        content: whether the texts of requests and answers are sent.
    """

    def __init__(self, environment: Mapping[str, str], base_url: str, *, content: bool) -> None:
        resource = Resource.create({} if _names_service(environment) else {"service.name": "tailrace-worker"})
        self.content = content
        self.provider = "azure.ai.openai" if environment.get("AZURE_OPENAI_ENDPOINT") else "openai"
        self._ids = _Ids()
        self._spans = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._metrics = MeterProvider(
            [PeriodicExportingMetricReader(OTLPMetricExporter())] if _exports(environment, "METRICS") else (),
            resource=resource,
            shutdown_on_exit=False,
        )
        if _exports(environment, "TRACES"):
            self._spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self.tracer = self._spans.get_tracer("tailrace")
        meter = self._metrics.get_meter("tailrace")
        self.duration = meter.create_histogram(
            "gen_ai.client.operation.duration", "s", explicit_bucket_boundaries_advisory=_DURATIONS_S
        )
        self.first_chunk = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk", "s", explicit_bucket_boundaries_advisory=_DURATIONS_S
        )
        self.tokens = meter.create_histogram(
            "gen_ai.client.token.usage", "{token}", explicit_bucket_boundaries_advisory=_TOKENS
        )
        server = urlsplit(base_url)
        self.server: Attributes = {"server.address": server.hostname or ""}
        self.server["server.port"] = server.port or (80 if server.scheme == "http" else 443)

    def attempt(self, start: AttemptStart) -> AttemptSubscriber:
        """As `Traces.attempt`."""
        return _AttemptTrace(self, _RequestTrace(self, start), start)

    async def close(self) -> None:
        """Sends what is buffered, for at most `CLOSE_S`: a collector that does not answer must not delay a worker."""
        loop = asyncio.get_running_loop()
        sent = loop.create_future()

        def send() -> None:
            self._spans.shutdown()
            self._metrics.shutdown()
            with suppress(RuntimeError):  # the loop is closed: the time was over
                loop.call_soon_threadsafe(sent.set_result, None)

        Thread(target=send, daemon=True).start()
        await asyncio.wait({sent}, timeout=CLOSE_S)

    def samples(self, parent: Context, trace_id: int) -> bool:
        """Whether a request is recorded: decided by the trace of its submit, or else by `OTEL_TRACES_SAMPLER`."""
        return self._spans.sampler.should_sample(parent, trace_id, "tailrace.request").decision.is_sampled()

    def span_with_ids(self, name: str, parent: Context, ids: tuple[int, int], **more: Any) -> Span:
        """A span with the given trace id and span id, which other spans already refer to."""
        self._ids.given = ids
        try:
            return self.tracer.start_span(name, context=parent, **more)
        finally:
            self._ids.given = None


class _Ids(RandomIdGenerator):
    """Random ids, except while ids are given."""

    given: tuple[int, int] | None = None

    def generate_trace_id(self) -> int:
        return self.given[0] if self.given else super().generate_trace_id()

    def generate_span_id(self) -> int:
        return self.given[1] if self.given else super().generate_span_id()


class _RequestTrace:
    """The span of a whole request, from submit to its end. The attempt that ends the request records it; the spans of
    all attempts have it as parent, since its ids follow from the request's id."""

    def __init__(self, traces: OtelTraces, start: AttemptStart) -> None:
        self.traces, self.request = traces, start.request
        self.began_ns = time_ns()
        # By the clock of Redis, which all workers share; the clock of this machine may be a little behind.
        self.submitted_ns = min(start.submitted_ms * 1_000_000, self.began_ns)
        self.attributes: Attributes = {"tailrace.request.id": start.request_id}
        if self.request is not None and self.request.tenant is not None:
            self.attributes["tailrace.tenant"] = self.request.tenant
        self._ids = ids_of(start.request_id)
        self._parent = Context()
        if self.request is not None and self.request.traceparent is not None:
            given = parse_traceparent(self.request.traceparent)
            self._ids = (given.trace_id, self._ids[1])
            self._parent = _context_of(given.trace_id, given.span_id, given.flags)
        flags = SAMPLED if traces.samples(self._parent, self._ids[0]) else 0
        self.context = _context_of(*self._ids, flags)

    def record(self, outcome: Outcome) -> None:
        """Records the span: the request has ended."""
        span = self.traces.span_with_ids(
            "tailrace.request", self._parent, self._ids, start_time=self.submitted_ns, attributes=self.attributes
        )
        span.set_attribute("tailrace.status", outcome.status)
        if outcome.error is not None:
            span.set_attribute("error.type", outcome.error.code)
            span.set_status(StatusCode.ERROR)
        span.end()


class _AttemptTrace(AttemptSubscriber):
    """The span of an attempt, and in it the span of the call to the model's server."""

    def __init__(self, traces: OtelTraces, whole: _RequestTrace, start: AttemptStart) -> None:
        self._traces, self._whole = traces, whole
        if start.why == "first":
            wait = traces.tracer.start_span(
                "tailrace.queue", whole.context, start_time=whole.submitted_ns, attributes=whole.attributes
            )
            wait.end(whole.began_ns)
        numbered = {"tailrace.attempt.number": start.attempt, "tailrace.attempt.cause": start.why}
        self._span = traces.tracer.start_span(
            "tailrace.attempt", whole.context, start_time=whole.began_ns, attributes=whole.attributes | numbered
        )
        self._call: Span | None = None
        self._labels: Attributes = {}
        self._asked_ns = self._first_ns = self._read_ns = 0

    def upstream_asked(self) -> None:
        request = self._whole.request
        assert request is not None  # noqa: S101 - a request that cannot be decoded is never sent
        self._asked_ns = time_ns()
        self._labels = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": self._traces.provider,
            "gen_ai.request.model": request.model,
            **self._traces.server,
        }
        self._call = self._traces.tracer.start_span(
            f"chat {request.model}",
            set_span_in_context(self._span, Context()),
            SpanKind.CLIENT,
            self._labels | request_attributes(request, content=self._traces.content),
            start_time=self._asked_ns,
        )

    def first_delta(self, after_s: float) -> None:
        self._first_ns = time_ns()
        if self._call is not None:
            since_s = (self._first_ns - self._asked_ns) / _S
            self._call.set_attribute("gen_ai.response.time_to_first_chunk", since_s)
            self._traces.first_chunk.record(since_s, self._labels)

    def reading_ended(self, end: str, code: str | None) -> None:
        self._read_ns = time_ns()
        self._span.set_attribute("tailrace.attempt.end", end)
        if code is not None:
            self._labels["error.type"] = code
            for span in (self._span, self._call):
                if span is not None:
                    span.set_attribute("error.type", code)
                    span.set_status(StatusCode.ERROR)
        if self._call is not None:
            self._traces.duration.record((self._read_ns - self._asked_ns) / _S, self._labels)

    def finished(self, outcome: Outcome, terminal_id: EntryId, ms: int) -> None:
        if self._call is not None:
            self._call.set_attributes(response_attributes(outcome, content=self._traces.content))
            for kind, count in _usage(outcome).items():
                self._traces.tokens.record(count, {**self._labels, "gen_ai.token.type": kind})
        self._end_spans(time_ns())
        self._whole.record(outcome)

    def closed(self) -> None:
        self._end_spans(self._read_ns)  # the pause before the next attempt is not part of this one

    def _end_spans(self, at_ns: int) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.end(self._read_ns or None)
        if self._span.is_recording():
            self._span.end(at_ns or None)


def request_attributes(request: GenerationRequest, *, content: bool) -> Attributes:
    """The attributes of a request; with its texts if `content`."""
    attributes: Attributes = {
        "openai.api.type": "responses" if request.api == "responses" else "chat_completions",
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": request.temperature,
        "gen_ai.request.top_p": request.top_p,
        "gen_ai.request.max_tokens": request.max_completion_tokens or request.max_output_tokens or request.max_tokens,
        "gen_ai.request.seed": request.seed,
        "gen_ai.request.frequency_penalty": request.frequency_penalty,
        "gen_ai.request.presence_penalty": request.presence_penalty,
    }
    if content:
        messages = request.messages if request.api == "chat" else request.input
        attributes["gen_ai.input.messages"] = json.dumps(messages)
        attributes["gen_ai.system_instructions"] = request.instructions
    return {name: value for name, value in attributes.items() if value is not None}


def response_attributes(outcome: Outcome, *, content: bool) -> Attributes:
    """The attributes of an answer; with its texts if `content`."""
    attributes: Attributes = {
        "gen_ai.response.model": outcome.model,
        "gen_ai.response.id": outcome.upstream_id,
        "gen_ai.response.finish_reasons": [outcome.finish_reason] if outcome.finish_reason else None,
    }
    attributes |= {f"gen_ai.usage.{kind}_tokens": count for kind, count in _usage(outcome).items()}
    if content:
        calls = [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in outcome.tool_calls]
        message = {
            "role": "assistant",
            "reasoning": outcome.reasoning,
            "content": outcome.content,
            "tool_calls": calls,
        }
        attributes["gen_ai.output.messages"] = json.dumps([message])
    return {name: value for name, value in attributes.items() if value is not None}


def _usage(outcome: Outcome) -> dict[str, int]:
    usage = outcome.usage
    counts = {"input": usage.input_tokens, "output": usage.output_tokens} if usage is not None else {}
    return {kind: count for kind, count in counts.items() if count is not None}


def _context_of(trace_id: int, span_id: int, flags: int) -> Context:
    parent = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _names_service(environment: Mapping[str, str]) -> bool:
    attributes = environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return bool(environment.get("OTEL_SERVICE_NAME")) or "service.name=" in attributes


def _exports(environment: Mapping[str, str], signal: str) -> bool:
    """Whether OpenTelemetry's environment asks for the export of a signal (`TRACES` or `METRICS`)."""
    endpoint = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT") or environment.get(
        f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"
    )
    return bool(endpoint) and environment.get(f"OTEL_{signal}_EXPORTER", "otlp") != "none"
