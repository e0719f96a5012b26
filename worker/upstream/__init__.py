"""The connection to the model's server: requests, the transport under them, and their errors."""
