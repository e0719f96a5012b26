"""Composes what a worker says of itself to those who watch: its figures, the queue's, and whether it is well."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from tailrace.schemas.settings import Settings
from tailrace.telemetry import metrics
from tailrace.telemetry.logging import fields
from tailrace.telemetry.metric_samples import CONTENT_TYPE, Figure, exposition, gauge, of_process
from tailrace.worker.observe.fleet_metrics import Voice
from tailrace.worker.observe.metrics_port import Page, port
from tailrace.worker.observe.queue_metrics import QueueSight

_logger = logging.getLogger("tailrace.worker")


@asynccontextmanager
async def told(
    settings: Settings, redis: Redis, figures: Callable[[], list[Figure]], voice: int | None
) -> AsyncGenerator[None]:
    """Tells the figures of one process, as long as the context lasts: to its parent, at a port, or to nobody.

    Args:
        settings: ours.
        redis: a client, for a look at the queue.
        figures: of this process.
        voice: the file descriptor of a pipe to a parent that answers for us.

    Raises:
        SettingsError: the address cannot be had.
    """
    if voice is not None:
        speaking = asyncio.create_task(Voice(voice, figures).keep(), name="voice")
        try:
            yield
        finally:
            speaking.cancel()
            await asyncio.wait({speaking})
    else:

        def alone() -> list[Figure]:
            return [gauge(metrics.PROCESSES, 1), *of_process(figures(), "0")]

        async with served(settings, redis, alone, lambda: True):
            yield


@asynccontextmanager
async def served(
    settings: Settings, redis: Redis, figures: Callable[[], list[Figure]], is_well: Callable[[], bool]
) -> AsyncGenerator[None]:
    """Serves `/metrics` and `/healthz`, where the settings name a port.

    Args:
        settings: ours.
        redis: a client, for a look at the queue.
        figures: of all processes of this worker, each with its place.
        is_well: whether all that should run does.

    Raises:
        SettingsError: the address cannot be had.
    """
    if settings.metrics_port is None:
        yield
        return
    sight = QueueSight(redis)

    async def show() -> Page:
        return Page(exposition([*figures(), *await sight.figures()]), content_type=CONTENT_TYPE)

    async def health() -> Page:
        return Page(b"ok\n") if is_well() else Page(b"a process does not run, or hangs\n", 503)

    async with port(settings.metrics_host, settings.metrics_port, {"/metrics": show, "/healthz": health}) as number:
        url = f"http://{settings.metrics_host}:{number}/metrics"
        _logger.info("metrics at %s", url, extra=fields("metrics_served", url=url))
        yield
