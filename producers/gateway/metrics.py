"""The counts of a gateway, and the application that serves them as Prometheus metrics. Knows nothing of routes."""

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tailrace.producers.tail.fanout.fanout import Following
from tailrace.telemetry import metrics
from tailrace.telemetry.exposition import render_samples
from tailrace.telemetry.metric_samples import LabeledCounter, MetricSample, gauge_sample


class GatewayCounts:
    """The counters of one gateway."""

    def __init__(self) -> None:
        self.streams_ended = LabeledCounter(metrics.STREAMS_ENDED, [(end,) for end in metrics.ENDS])
        self.responses = LabeledCounter(metrics.RESPONSES)

    def metric_samples(self, streams: int, following: Following) -> list[MetricSample]:
        """The counters and gauges as samples.

        Args:
            streams: event streams that are open.
            following: how much the gateway's client follows.
        """
        return [
            *self.streams_ended.metric_samples(),
            *self.responses.metric_samples(),
            gauge_sample(metrics.STREAMS, streams),
            gauge_sample(metrics.TAILS, following.tails),
            gauge_sample(metrics.TAILED, following.requests),
            MetricSample(metrics.FELL_BEHIND.name, (), following.fell_behind),
        ]


def metrics_app(metric_samples: Callable[[], list[MetricSample]]) -> Starlette:
    """An application that answers `GET /metrics`, for a port that is not public."""

    async def show(request: Request) -> Response:
        body, content_type = render_samples(metric_samples(), ",".join(request.headers.getlist("accept")))
        return Response(body, headers={"content-type": content_type})

    async def health(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    return Starlette(routes=[Route("/metrics", show, methods=["GET"]), Route("/healthz", health, methods=["GET"])])
