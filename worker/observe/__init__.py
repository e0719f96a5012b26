"""What a worker tells operators: counts, metrics, traces, log events, reports."""
