"""The client without an event loop, for Django, Flask and scripts."""
