"""Runs scripts by their hash, or by their source if the server does not have them. Knows no particular script."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from tailrace.broker.script import Argument, Script

_Reply = TypeVar("_Reply")

Send = Callable[[Sequence[Argument]], Awaitable[Any]]
"""Sends a command and returns its reply. Raises redis-py's errors."""


async def run_script(redis: Redis, script: Script[_Reply], of: str = "", /, **given: Argument) -> _Reply:
    """Runs a script with a client.

    Args:
        redis: a client of the server with the script's keys.
        script: one of `scripts.py`.
        of: the request, job or worker it is called for; empty for a script on all of them.
        given: its arguments by name.

    Raises:
        RedisError, OSError, RuntimeError: for `errors.store_error` to translate.
    """
    return await run_script_by(lambda command: redis.execute_command(*command), script, of, **given)


async def run_script_by(send: Send, script: Script[_Reply], of: str = "", /, **given: Argument) -> _Reply:
    """As `run_script`, over any connection."""
    keys, args = script.call(of, **given)
    called = (len(keys), *keys, *args)
    try:
        reply = await send(("EVALSHA", script.sha, *called))
    except NoScriptError:
        reply = await send(("EVAL", script.text, *called))
    return script.read(reply)
