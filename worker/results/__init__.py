"""Writes outcomes from the outbox in Redis into a database, where they outlast Redis."""
