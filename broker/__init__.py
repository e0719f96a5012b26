"""The way to Redis that workers and producers share: connections, keys, scripts, errors. Knows neither side."""
