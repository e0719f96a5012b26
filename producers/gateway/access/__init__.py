"""Who calls the gateway and what they may do: API keys, tokens, origins, and a limit on submits."""
