"""The model's server: what is asked of it, over which transport, and how it fails."""
