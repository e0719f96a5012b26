"""Telemetry of all processes, in one form: log lines, the table of metrics, counts and their rendering."""
