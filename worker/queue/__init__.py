"""From the queue to a running job: claims, leases, the calls of job functions, quarantine."""
