"""What a web tier and a client use: submit, tail, result, cancel, and the command line."""
