"""All tails of a client on a few connections."""
