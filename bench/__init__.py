"""Benchmarks: cost and latency of Tailrace, next to a peer or a floor of the same run (docs/benchmarks.md)."""
