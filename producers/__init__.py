"""The producers' side, for web tiers and clients: submit, tail, result, cancel, and the command line."""
