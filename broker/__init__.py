"""Access to Redis, shared by workers and producers: connections, keys, scripts, errors. Knows neither of the two."""
