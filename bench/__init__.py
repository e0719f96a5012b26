"""Benchmarks: what we cost and how long we take, beside a peer or a floor of the same run (docs/benchmarks.md)."""
