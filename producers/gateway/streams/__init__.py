"""Event streams: the log of a request as SSE frames, buffered for one reader."""
