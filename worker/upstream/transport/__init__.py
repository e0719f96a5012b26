"""HTTP/1.1 under the SDK's client: bytes go from the socket to who reads them, with nothing between.

Knows requests, responses and connections. Knows nothing of what is asked, of proxies, of the SDK or of settings.
"""

from tailrace.worker.upstream.transport.body import Body
from tailrace.worker.upstream.transport.transport import BODY, Transport

__all__ = ["BODY", "Body", "Transport"]
