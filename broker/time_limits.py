"""How long Redis may take, in seconds. A producer sets its own limit (`timeout_s`); all others use these."""

CONNECT_TIMEOUT_S = 5.0

REPLY_TIMEOUT_S = 5.0
"""A server that has not answered by then is treated as lost. Its commands are sent again on a new connection."""

PATIENCE_S = 60.0
"""How long an operation or a commit is retried. Without Redis a lease cannot be renewed and ends before this."""
