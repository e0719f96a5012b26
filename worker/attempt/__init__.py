"""One run of a request: the job function, its attempts, retries, and requests that end without a run."""
