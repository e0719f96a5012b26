"""From the queue to a running job and its end: claims, leases, calls of job functions, quarantine, drain."""
