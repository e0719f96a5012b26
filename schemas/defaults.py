"""Defaults that settings and client options share. Imports nothing, so that reading them costs nothing."""

DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"
DEFAULT_RUN_LIMIT_S = 900.0
DEFAULT_RETENTION_S = 3600.0
