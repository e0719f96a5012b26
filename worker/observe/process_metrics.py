"""Publishes the metrics of a worker: at a port of its own, or over the pipe to the parent of a fleet."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from tailrace.schemas.settings import Settings
from tailrace.telemetry import metrics
from tailrace.telemetry.logging import fields
from tailrace.telemetry.metric_samples import MetricSample, gauge_sample, with_process
from tailrace.worker.observe.fleet_metrics import MetricsPipe
from tailrace.worker.observe.metrics_port import PortPage, serve_pages
from tailrace.worker.observe.queue_metrics import QueueMetrics

_logger = logging.getLogger("tailrace.worker")


@asynccontextmanager
async def publish_process_metrics(
    settings: Settings, redis: Redis, metric_samples: Callable[[], list[MetricSample]], pipe: int | None
) -> AsyncGenerator[None]:
    """Inside the context, the metrics of this process go to its parent, or are served if the settings name a port.

    Args:
        settings: those of this process.
        redis: a client of the Redis with the queue.
        metric_samples: returns the samples of this process.
        pipe: the file descriptor of the pipe to the parent; None if there is no parent.

    Raises:
        SettingsError: the address cannot be used.
    """
    if pipe is not None:
        sending = asyncio.create_task(MetricsPipe(pipe, metric_samples).run(), name="metrics-pipe")
        try:
            yield
        finally:
            sending.cancel()
            await asyncio.wait({sending})
    else:

        def only_process() -> list[MetricSample]:
            return [gauge_sample(metrics.PROCESSES, 1), *with_process(metric_samples(), "0")]

        async with serve_metrics(settings, redis, only_process, lambda: True):
            yield


@asynccontextmanager
async def serve_metrics(
    settings: Settings, redis: Redis, metric_samples: Callable[[], list[MetricSample]], is_healthy: Callable[[], bool]
) -> AsyncGenerator[None]:
    """Inside the context, `/metrics` and `/healthz` are served, if the settings name a port.

    Args:
        settings: those of this process.
        redis: a client of the Redis with the queue, whose metrics are added.
        metric_samples: returns the samples of all processes of this worker, with the label `process`.
        is_healthy: whether all processes run and respond.

    Raises:
        SettingsError: the address cannot be used.
    """
    if settings.metrics_port is None:
        yield
        return
    from tailrace.telemetry.exposition import render_samples  # not needed by a worker that serves no metrics

    queue_metrics = QueueMetrics(redis)

    async def metrics_page(accept: str) -> PortPage:
        body, content_type = render_samples([*metric_samples(), *await queue_metrics.metric_samples()], accept)
        return PortPage(body, content_type=content_type)

    async def health_page(accept: str) -> PortPage:
        return PortPage(b"ok\n") if is_healthy() else PortPage(b"a process does not run, or does not respond\n", 503)

    pages = {"/metrics": metrics_page, "/healthz": health_page}
    async with serve_pages(settings.metrics_host, settings.metrics_port, pages) as port:
        url = f"http://{settings.metrics_host}:{port}/metrics"
        _logger.info("metrics at %s", url, extra=fields("metrics_served", url=url))
        yield
