"""Authentication and permissions of callers: API keys, tokens, origins, and a limit on submits."""
