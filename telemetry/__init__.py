"""What every process says of itself, in one form: log lines, the table of metrics, their samples and text formats."""
