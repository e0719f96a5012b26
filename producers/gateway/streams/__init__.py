"""Event streams: a request's log as frames, buffered for one reader."""
