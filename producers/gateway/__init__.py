"""The gateway: an ASGI application that offers a client over HTTP. `app.py` composes it, `server.py` serves it.

Needs the extra `web`. Only this package imports Starlette and uvicorn, and nothing imports it before it is used.
"""
