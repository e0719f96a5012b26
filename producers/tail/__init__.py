"""Reading one log: live and replayed, whole or collapsed, from any cursor."""
