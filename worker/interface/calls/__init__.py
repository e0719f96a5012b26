"""Tool calls in the making: which call a fragment belongs to, and what of its arguments is shown."""
