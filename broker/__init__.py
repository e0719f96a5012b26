"""Access to Redis, shared by workers and producers: connections, keys, scripts, errors. Knows nothing of either."""
