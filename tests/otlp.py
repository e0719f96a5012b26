"""A collector for OpenTelemetry: accepts OTLP over HTTP, as protobuf, and keeps what it receives."""

import gzip
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """The exports it has received, raw and parsed."""

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[bytes] = []
        self._traces: list[ExportTraceServiceRequest] = []
        self._metrics: list[ExportMetricsServiceRequest] = []

    def add_export(self, path: str, body: bytes) -> None:
        """Keeps one export."""
        self.bodies.append(body)
        if path == "/v1/traces":
            self._traces.append(ExportTraceServiceRequest.FromString(body))
        else:
            assert path == "/v1/metrics", path
            self._metrics.append(ExportMetricsServiceRequest.FromString(body))

    @property
    def spans(self) -> list[Any]:
        """All spans received so far."""
        return [
            span
            for export in tuple(self._traces)
            for resource in export.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def services(self) -> set[str]:
        """The names of the services that sent spans."""
        resources = [resource.resource for export in self._traces for resource in export.resource_spans]
        return {str(attributes(resource.attributes)["service.name"]) for resource in resources}

    def points(self, name: str) -> list[Any]:
        """The points of a histogram in the last export that contains it."""
        found: list[Any] = []
        for export in tuple(self._metrics):
            for resource in export.resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        if metric.name == name:
                            found = list(metric.histogram.data_points)
        return found


def attributes(pairs: Sequence[Any]) -> dict[str, Any]:
    """Attributes by name; an array becomes a list."""
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(part) for part in value.array_value.values]
    return getattr(value, kind)


@contextmanager
def collector() -> Generator[Collector]:
    """A running collector."""
    kept = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            kept.add_export(
                self.path, gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
            )
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Logs nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        kept.url = f"http://127.0.0.1:{server.server_address[1]}"
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield kept
        finally:
            server.shutdown()
            serving.join()
