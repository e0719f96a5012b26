"""What a gateway counts, and the page on which it says so. Knows nothing of routes and of what streams say."""

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tailrace.producers.tail.fanout.fanout import Following
from tailrace.telemetry import metrics
from tailrace.telemetry.metric_samples import CONTENT_TYPE, Figure, Tally, exposition, gauge


class GatewayCounts:
    """The counts of one gateway."""

    def __init__(self) -> None:
        self.ended = Tally(metrics.STREAMS_ENDED, [(end,) for end in metrics.ENDS])
        self.responses = Tally(metrics.RESPONSES)

    def figures(self, streams: int, following: Following) -> list[Figure]:
        """All counts, and how it stands.

        Args:
            streams: event streams that are open.
            following: how much its client follows.
        """
        return [
            *self.ended.figures(),
            *self.responses.figures(),
            gauge(metrics.STREAMS, streams),
            gauge(metrics.TAILS, following.tails),
            gauge(metrics.TAILED, following.requests),
            Figure(metrics.FELL_BEHIND.name, (), following.fell_behind),
        ]


def page(figures: Callable[[], list[Figure]]) -> Starlette:
    """An application that answers `GET /metrics`, for a port that is not the public's."""

    async def show(request: Request) -> Response:
        return PlainTextResponse(exposition(figures()), headers={"content-type": CONTENT_TYPE})

    async def health(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    return Starlette(routes=[Route("/metrics", show, methods=["GET"]), Route("/healthz", health, methods=["GET"])])
