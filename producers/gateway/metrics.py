"""What a gateway counts, and the application that serves it as Prometheus metrics. Knows nothing of routes."""

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tailrace.producers.tail.fanout.fanout import Following
from tailrace.telemetry import metrics
from tailrace.telemetry.metric_samples import CONTENT_TYPE, Figure, Tally, exposition, gauge


class GatewayCounts:
    """The counters of one gateway."""

    def __init__(self) -> None:
        self.streams_ended = Tally(metrics.STREAMS_ENDED, [(end,) for end in metrics.ENDS])
        self.responses = Tally(metrics.RESPONSES)

    def figures(self, streams: int, following: Following) -> list[Figure]:
        """The counters and gauges as samples.

        Args:
            streams: event streams that are open.
            following: how much the gateway's client follows.
        """
        return [
            *self.streams_ended.figures(),
            *self.responses.figures(),
            gauge(metrics.STREAMS, streams),
            gauge(metrics.TAILS, following.tails),
            gauge(metrics.TAILED, following.requests),
            Figure(metrics.FELL_BEHIND.name, (), following.fell_behind),
        ]


def metrics_app(figures: Callable[[], list[Figure]]) -> Starlette:
    """An application that answers `GET /metrics`, for a port that is not public."""

    async def show(request: Request) -> Response:
        return PlainTextResponse(exposition(figures()), headers={"content-type": CONTENT_TYPE})

    async def health(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    return Starlette(routes=[Route("/metrics", show, methods=["GET"]), Route("/healthz", health, methods=["GET"])])
