# redis-py's annotations as far as Tailrace uses it, said so that strict checking can follow them: redis 5 leaves
# `Awaitable[X] | X` and bare containers in its signatures, and arq subclasses a `Redis[bytes]` that only checkers see.
# Replies are bytes (no client here decodes); `Any` is the reply of a command whose reply depends on its arguments.
# A method that is missing is added here with the parameters that are used; tests/unit/test_packaging.py holds each
# name and parameter against the installed redis-py.
from redis import asyncio as asyncio
from redis import exceptions as exceptions
from redis.client import Redis as Redis
