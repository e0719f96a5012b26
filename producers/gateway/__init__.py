"""The front door for the web: an ASGI application over a client. `app.py` composes it, `server.py` serves it.

Needs the extra `web`; only this package imports Starlette and uvicorn, and nothing imports it before it is used.
"""
