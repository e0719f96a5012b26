"""What every process reports, in one form: log lines, the table of metrics, counts and their rendering."""
