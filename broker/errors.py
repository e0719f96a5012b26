"""One table that translates redis-py's exceptions into those of `schemas/errors.py`, for workers and producers.

Knows which errors pass without anybody's action. Knows nothing of the operations that failed.
"""

from typing import NamedTuple

from redis import exceptions as redis_errors

from tailrace.schemas.errors import StoreError, StoreFull, StoreRefused, StoreUnavailable
from tailrace.schemas.redis_url import OF_A_CLUSTER

FAILURES = (redis_errors.RedisError, OSError, RuntimeError)
"""What redis-py may raise when Redis or the connection to it fails. `store_error` translates it."""

CLOSED_CONNECTION = "the handler is closed"
"""The end of uvloop's RuntimeError for a write to a connection that was just lost. asyncio raises no error for it."""

_CLUSTER_REPLIES = ("MOVED ", "ASK ", "CROSSSLOT ")
_PASSING_REPLIES = (
    *("BUSY ", "CLUSTERDOWN ", "MASTERDOWN ", "MISCONF ", "NOREPLICAS ", "TRYAGAIN ", "UNBLOCKED "),
    "max number of clients reached",
)


class Rule(NamedTuple):
    """One row of the table.

    Attributes:
        kinds: exceptions it applies to.
        replies: how Redis' reply starts; empty for any.
        ours: the error it becomes.
        message: with the fields `place` (host and port, without a password) and `said` (the first line of the error).
    """

    kinds: tuple[type[Exception], ...]
    replies: tuple[str, ...]
    ours: type[StoreError]
    message: str


RULES = (
    Rule(
        (redis_errors.AuthenticationError, redis_errors.AuthorizationError),
        (),
        StoreRefused,
        "Redis at {place} refuses: {said}; check user and password in its URL",
    ),
    Rule(
        (redis_errors.NoPermissionError,),
        (),
        StoreRefused,
        "Redis at {place} refuses: {said}; check user and password in its URL, and the user's rights",
    ),
    Rule((redis_errors.OutOfMemoryError,), (), StoreFull, "Redis at {place} is out of memory: {said}"),
    Rule(
        (redis_errors.ReadOnlyError,),
        (),
        StoreUnavailable,
        "Redis at {place} is a read-only replica: {said}; if it stays one, give the URL of the primary",
    ),
    Rule((redis_errors.BusyLoadingError,), (), StoreUnavailable, "Redis at {place} is not ready: {said}"),
    Rule((redis_errors.ResponseError,), _CLUSTER_REPLIES, StoreRefused, f"Redis at {{place}}: {OF_A_CLUSTER}"),
    Rule((redis_errors.ResponseError,), _PASSING_REPLIES, StoreUnavailable, "Redis at {place} is not ready: {said}"),
    Rule((redis_errors.ResponseError,), (), StoreRefused, "Redis at {place} refuses: {said}"),
    Rule((redis_errors.InvalidResponse,), (), StoreRefused, "what answers at {place} is not a Redis: {said}"),
    Rule(
        (redis_errors.TimeoutError, TimeoutError),
        (),
        StoreUnavailable,
        "Redis at {place} did not answer in time: {said}",
    ),
    Rule(
        (redis_errors.ConnectionError, OSError, RuntimeError),
        (),
        StoreUnavailable,
        "Redis at {place} cannot be reached: {said}",
    ),
    Rule((redis_errors.RedisError,), (), StoreUnavailable, "Redis at {place} is not available: {said}"),
)
"""The first row that applies decides. An error that passes without anybody's action becomes `StoreUnavailable`: also
that of a replica that was the primary until now, or of a server that cannot save (`MISCONF`) or lacks replicas
(`NOREPLICAS`)."""


def store_error(error: Exception, place: str) -> StoreError:
    """Translates an error of redis-py, of a socket or of uvloop into a `StoreError`.

    Args:
        error: one of `FAILURES`.
        place: the server, without user and password (`connections.place_of`).

    Raises:
        Exception: the one given, if it is not about Redis: a bug in our code.
    """
    if isinstance(error, redis_errors.DataError):
        raise error
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, RuntimeError) and CLOSED_CONNECTION not in said:
        raise error
    for rule in RULES:
        if isinstance(error, rule.kinds) and (not rule.replies or str(error).startswith(rule.replies)):
            return rule.ours(rule.message.format(place=place, said=said))
    raise error


_KINDS: dict[str, type[redis_errors.RedisError]] = {
    "OOM": redis_errors.OutOfMemoryError,
    "READONLY": redis_errors.ReadOnlyError,
    "NOPERM": redis_errors.NoPermissionError,
    "NOAUTH": redis_errors.AuthenticationError,
    "WRONGPASS": redis_errors.AuthenticationError,
    "LOADING": redis_errors.BusyLoadingError,
    "NOSCRIPT": redis_errors.NoScriptError,
}


def reply_error(said: str) -> redis_errors.RedisError:
    """The exception that redis-py raises for an error reply, for connections that are read without redis-py.

    Args:
        said: the error as Redis sends it, without the leading `-`.
    """
    code, _, rest = said.partition(" ")
    kind = _KINDS.get(code)
    return redis_errors.ResponseError(said.removeprefix("ERR ")) if kind is None else kind(rest)
