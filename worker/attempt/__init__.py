"""One run of a request: the job function, its attempts, retries, and what ends without having run."""
