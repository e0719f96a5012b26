"""One trace from submit to the end, with a real worker process, a real collector and an application's span."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span
from redis.asyncio import Redis

from tailrace.broker.keys import rec_key
from tailrace.demo.simulator import Simulator
from tailrace.producers.client import Client
from tailrace.producers.sync.client import SyncClient
from tailrace.schemas.errors import SettingsError
from tailrace.schemas.request import decode_request
from tailrace.schemas.settings import Settings
from tailrace.schemas.trace_context import ids_of
from tailrace.worker.observe.tracing import NoTraces
from tailrace.worker.wiring import make_traces
from tests.gateway_rig import gateway
from tests.otlp import Collector, attributes, collector
from tests.rig import KEY, request_for

TAILRACE = Path(sys.executable).with_name("tailrace")
WAIT_S = 30.0
PROMPT, ANSWER = "a sentence that only the user may read", "an answer that only the user may read"
SCENARIO = {"steps": [{"kind": "text", "text": ANSWER}], "usage": "always"}
LIMITED_ONCE = {**SCENARIO, "faults": [{"kind": "status", "status": 429, "retry_after_s": 0.01, "calls": 1}]}
TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331


def application_span(sampled: bool = True) -> NonRecordingSpan:
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    return NonRecordingSpan(SpanContext(TRACE, SPAN, is_remote=False, trace_flags=flags))


def traced_request(scenario: Mapping[str, Any]) -> dict[str, Any]:
    return request_for(scenario, messages=[{"role": "user", "content": PROMPT}], temperature=0.5, tenant="acme")


@asynccontextmanager
async def worker(url: str, simulator: Simulator, exported: Collector, **more: str) -> AsyncGenerator[None]:
    """A worker process that exports to the collector; after the context it has sent everything."""
    child = await asyncio.create_subprocess_exec(
        *(TAILRACE, "worker"),
        env={
            "PATH": os.environ["PATH"],
            "TAILRACE_REDIS_URL": url,
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": simulator.url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": exported.url,
            **more,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    try:
        async with asyncio.timeout(WAIT_S):
            await child.stdout.readline()
        yield
    finally:
        child.terminate()
        async with asyncio.timeout(WAIT_S):
            _, errors = await child.communicate()
    assert child.returncode == 0, errors.decode()


def named(exported: Collector, name: str) -> list[Any]:
    return [span for span in exported.spans if span.name == name]


async def test_one_trace_from_submit_to_the_end(redis_url: str) -> None:
    """given: an application's span, a request with a retry / expect: all spans below it, nested correctly."""
    async with Simulator(key=KEY) as simulator, Client(redis_url) as client:
        with collector() as exported:
            async with worker(redis_url, simulator, exported):
                with use_span(application_span()):
                    request_id = (await client.submit(traced_request(LIMITED_ONCE))).id
                outcome = await client.result(request_id, wait_s=WAIT_S)
                assert outcome is not None
                assert outcome.status == "completed"
                assert outcome.usage is not None
    assert {span.trace_id.hex() for span in exported.spans} == {f"{TRACE:032x}"}
    assert exported.services == {"tailrace-worker"}
    (request,) = named(exported, "tailrace.request")
    assert request.parent_span_id.hex() == f"{SPAN:016x}"
    (wait,) = named(exported, "tailrace.queue")
    attempts = sorted(named(exported, "tailrace.attempt"), key=lambda span: span.start_time_unix_nano)
    assert [span.parent_span_id for span in (wait, *attempts)] == [request.span_id] * 3
    about = [attributes(span.attributes) for span in attempts]
    assert [(one["tailrace.attempt.number"], one["tailrace.attempt.cause"]) for one in about] == [
        (1, "first"),
        (2, "retry"),
    ]
    assert [(one["tailrace.attempt.end"], one.get("error.type")) for one in about] == [
        ("failed", "upstream_429"),
        ("answered", None),
    ]
    calls = sorted(named(exported, "chat sim"), key=lambda span: span.start_time_unix_nano)
    assert [span.parent_span_id for span in calls] == [span.span_id for span in attempts]
    assert len(exported.spans) == 6
    assert len({span.span_id for span in exported.spans}) == 6
    # the request contains all other spans, and each attempt its call
    assert request.start_time_unix_nano == wait.start_time_unix_nano
    assert wait.end_time_unix_nano <= attempts[0].start_time_unix_nano
    for inner, outer in [*zip(calls, attempts, strict=True), *((span, request) for span in attempts)]:
        assert outer.start_time_unix_nano <= inner.start_time_unix_nano
        assert inner.start_time_unix_nano <= inner.end_time_unix_nano <= outer.end_time_unix_nano
    # the call has the attributes that the conventions ask for, and no texts
    found = attributes(calls[1].attributes)
    assert calls[1].kind == 3  # client
    first_s = found.pop("gen_ai.response.time_to_first_chunk")
    assert 0 < first_s < WAIT_S
    assert found.pop("gen_ai.response.id")
    assert found == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "sim",
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0.5,
        "openai.api.type": "chat_completions",
        "server.address": "127.0.0.1",
        "server.port": urlsplit(simulator.url).port,
        "gen_ai.response.model": "sim",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": outcome.usage.input_tokens,
        "gen_ai.usage.output_tokens": outcome.usage.output_tokens,
    }
    assert attributes(calls[0].attributes)["error.type"] == "upstream_429"
    assert attributes(request.attributes) == {
        "tailrace.request.id": request_id,
        "tailrace.tenant": "acme",
        "tailrace.status": "completed",
    }
    everything = b"".join(exported.bodies)
    for private in (PROMPT, ANSWER, KEY):
        assert private.encode() not in everything
    # metrics
    durations = exported.points("gen_ai.client.operation.duration")
    counts = {attributes(point.attributes).get("error.type"): point.count for point in durations}
    assert counts == {None: 1, "upstream_429": 1}
    usage = exported.points("gen_ai.client.token.usage")
    tokens = {attributes(point.attributes)["gen_ai.token.type"]: point.sum for point in usage}
    assert tokens == {"input": outcome.usage.input_tokens, "output": outcome.usage.output_tokens}
    (first,) = exported.points("gen_ai.client.operation.time_to_first_chunk")
    assert first.sum == pytest.approx(first_s)


async def test_texts_are_exported_only_if_the_settings_ask_for_it(redis_url: str) -> None:
    async with Simulator(key=KEY) as simulator, Client(redis_url) as client:
        with collector() as exported:
            async with worker(redis_url, simulator, exported, TAILRACE_TRACE_CONTENT="true"):
                request_id = (await client.submit(traced_request(SCENARIO))).id
                assert await client.result(request_id, wait_s=WAIT_S) is not None
    (call,) = named(exported, "chat sim")
    found = attributes(call.attributes)
    assert json.loads(found["gen_ai.input.messages"]) == [{"role": "user", "content": PROMPT}]
    assert json.loads(found["gen_ai.output.messages"])[0]["content"] == ANSWER
    # without a span at submit, the request is the root of its trace
    (request,) = named(exported, "tailrace.request")
    assert request.parent_span_id == b""
    trace_id, span_id = ids_of(request_id)
    assert (request.trace_id.hex(), request.span_id.hex()) == (f"{trace_id:032x}", f"{span_id:016x}")
    assert {span.trace_id for span in exported.spans} == {request.trace_id}


async def test_a_request_that_the_application_does_not_sample_is_not_exported(redis_url: str) -> None:
    async with Simulator(key=KEY) as simulator, Client(redis_url) as client:
        with collector() as exported:
            async with worker(redis_url, simulator, exported):
                with use_span(application_span(sampled=False)):
                    request_id = (await client.submit(traced_request(SCENARIO))).id
                assert await client.result(request_id, wait_s=WAIT_S) is not None
    assert exported.spans == []


async def test_a_collector_that_does_not_answer_changes_nothing(redis_url: str, unused_tcp_port: int) -> None:
    away = Collector()
    away.url = f"http://127.0.0.1:{unused_tcp_port}"
    async with Simulator(key=KEY) as simulator, Client(redis_url) as client:
        async with worker(redis_url, simulator, away):
            outcome = await client.result((await client.submit(traced_request(SCENARIO))).id, wait_s=WAIT_S)
            assert outcome is not None
            assert outcome.content == ANSWER


async def test_every_way_to_submit_carries_the_trace(redis_url: str, redis: Redis, tmp_path: Path) -> None:
    header = f"00-{TRACE:032x}-{SPAN:016x}-01"

    async with Client(redis_url) as client, gateway(redis_url, tmp_path) as served:
        named_itself = await client.submit({**traced_request(SCENARIO), "traceparent": header})
        by_header = await served.submit(traced_request({}), traceparent=header)
        ignored = await served.submit(traced_request({}), traceparent="nonsense")
        with use_span(application_span()):
            synchronous = await asyncio.to_thread(_submit_synchronously, redis_url)
            # a submit of the same content under another span is the same request
        again = await client.submit({**traced_request(SCENARIO), "id": synchronous})
        assert again.already_exists
        ids = (named_itself.id, by_header["id"], synchronous, ignored["id"])
        carried = [await _carried(redis, one) for one in ids]
    assert carried == [header, header, header, None]


def test_opentelemetry_is_not_loaded_without_an_endpoint() -> None:
    assert isinstance(make_traces(Settings(), {}, "http://x/v1"), NoTraces)
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    assert isinstance(make_traces(Settings(), {**endpoint, "OTEL_SDK_DISABLED": "true"}, "http://x/v1"), NoTraces)
    with pytest.raises(SettingsError, match="http/protobuf"):
        make_traces(Settings(), {**endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http://x/v1")


def test_without_the_extra_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tailrace.worker.observe.otel", None)
    with pytest.raises(SettingsError, match=r"tailrace\[otel\]"):
        make_traces(Settings(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, "http://x/v1")


def _submit_synchronously(url: str) -> str:
    client = SyncClient(url)
    try:
        return client.submit({**traced_request(SCENARIO), "id": "synchronous"}).id
    finally:
        client.close()


async def _carried(redis: Redis, request_id: str) -> str | None:
    packed = await redis.hget(rec_key(request_id), "request")
    assert isinstance(packed, bytes)
    return decode_request(packed).traceparent
