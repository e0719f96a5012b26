"""Outcomes that outlast Redis: from the outbox into a database."""
