"""The gateway's metrics: open and ended streams, responses and tails, on a separate port."""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx2

from tailrace.telemetry.metric_samples import MetricSample
from tailrace.telemetry.metrics import METRICS
from tests.gateway_rig import WAIT_S, events, gateway, reading
from tests.rig import request_for, rig
from tests.until import until

TAILRACE = Path(sys.executable).with_name("tailrace")
SLOW = {"steps": [{"kind": "text", "chunks": 2000}], "pace": {"chunks_per_s": 20}}


def value(samples: Sequence[MetricSample], name: str, *labels: str) -> float | None:
    """The value of a sample; None if there is none."""
    return next((sample.value for sample in samples if (sample.name, sample.labels) == (name, labels)), None)


async def test_streams_tails_and_responses_are_counted(redis_url: str, tmp_path: Path) -> None:
    async with rig(redis_url, drain_s=0), gateway(redis_url, tmp_path) as served:
        quick = await served.submit(request_for())
        await events(served.http, quick["links"]["events"])
        slow = await served.submit(request_for(SLOW))
        assert (await served.http.get("/v1/streams/nothing")).status_code == 404
        async with reading(served.http, slow["links"]["events"]) as reader:
            async for event in reader:
                if event.name == "assistant_message":
                    break
            samples = served.gateway.metric_samples()
            assert value(samples, "tailrace_gateway_streams") == 1
            assert value(samples, "tailrace_tails") == 1
            assert value(samples, "tailrace_tailed_requests") == 1
            assert value(samples, "tailrace_gateway_streams_ended_total", "ended") == 1
            assert value(samples, "tailrace_gateway_streams_ended_total", "left") == 0
        await until(lambda: value(served.gateway.metric_samples(), "tailrace_gateway_streams_ended_total", "left") == 1)
        await until(lambda: value(served.gateway.metric_samples(), "tailrace_tails") == 0)
        samples = served.gateway.metric_samples()
        assert value(samples, "tailrace_gateway_streams") == 0
        assert value(samples, "tailrace_gateway_responses_total", "202") == 2
        assert value(samples, "tailrace_gateway_responses_total", "200") == 2
        assert value(samples, "tailrace_gateway_responses_total", "404") == 1
    assert {sample.name for sample in samples} == {metric.name for metric in METRICS if metric.of == "gateway"}


async def test_the_command_serves_metrics_on_their_own_port_only(
    redis_url: str, unused_tcp_port_factory: Callable[[], int]
) -> None:
    port, metrics_port = unused_tcp_port_factory(), unused_tcp_port_factory()
    child = await asyncio.create_subprocess_exec(
        *(TAILRACE, "gateway", "--open", "--port", str(port), "--metrics-port", str(metrics_port)),
        env={"PATH": os.environ["PATH"], "TAILRACE_REDIS_URL": redis_url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert child.stdout is not None
    try:
        async with asyncio.timeout(WAIT_S):
            await child.stdout.readline()
        async with httpx2.AsyncClient(timeout=WAIT_S) as http:
            at = f"http://127.0.0.1:{metrics_port}"
            await until(lambda: _answers(http, f"{at}/healthz"))
            assert (await http.get(f"http://127.0.0.1:{port}/metrics")).status_code == 404
            plain = await http.get(f"{at}/metrics")
            assert (await http.get(f"{at}/v1/streams/x")).status_code == 404
            openmetrics = await http.get(f"{at}/metrics", headers={"accept": "application/openmetrics-text"})
        assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert openmetrics.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        assert openmetrics.text.endswith("# EOF\n")
        for page in (plain.text, openmetrics.text):
            assert 'tailrace_gateway_responses_total{status="404"} 1.0\n' in page
            assert "tailrace_gateway_streams 0.0\n" in page
    finally:
        child.terminate()
        async with asyncio.timeout(WAIT_S):
            assert await child.wait() == 0


async def _answers(http: httpx2.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(url)).status_code == 200
    except httpx2.ConnectError:
        return False
