"""Who asks the gateway, and what they may: API keys, tokens, rates."""
