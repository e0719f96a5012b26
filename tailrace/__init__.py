"""Tailrace: a message-queue stream worker for LLM answers."""
