"""Takes jobs from the queue, streams from the model, publishes deltas, persists outcomes."""
