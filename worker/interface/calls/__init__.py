"""Tool calls while they stream: which call a fragment belongs to, and which part of its arguments is shown."""
