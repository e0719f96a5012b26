"""Tool calls while they stream: which call a fragment belongs to, and what of its arguments is shown."""
