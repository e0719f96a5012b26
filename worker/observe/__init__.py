"""What a worker reports to operators: counts, metrics, traces, log events and reports."""
