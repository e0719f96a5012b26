"""The HTTP/1.1 transport under the SDK's client: it passes bytes from the socket directly to the reader.

Knows requests, responses and connections. Knows nothing of what is requested, of proxies, the SDK or settings.
"""

from tailrace.worker.upstream.transport.body import ConnectionBody
from tailrace.worker.upstream.transport.transport import BODY_EXTENSION, Transport

__all__ = ["BODY_EXTENSION", "ConnectionBody", "Transport"]
