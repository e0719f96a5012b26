"""A Lua script with named keys and arguments: its source, the arguments of a call, and how its reply is read.

Knows how a script is assembled from `lua/`. Knows no particular script (`scripts.py`) and sends nothing.
"""

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cached_property
from hashlib import sha1
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar

from tailrace.broker import keys

Argument = str | bytes | int

_Reply = TypeVar("_Reply")
_Status = TypeVar("_Status", bound=StrEnum)

KEYS: Mapping[str, Callable[[str], str]] = {
    "rec": keys.rec_key,
    "log": keys.log_key,
    "job": keys.job_key,
    "lease": keys.lease_key,
    "retry": keys.retry_key,
    "state": keys.queue_state_key,
    "dead_letter": keys.dead_letter_key,
    "worker": keys.worker_key,
    "queue": lambda _: keys.QUEUE,
    "health": lambda _: keys.HEALTH,
    "abort": lambda _: keys.ABORT,
    "dead": lambda _: keys.DEAD,
    "outbox": lambda _: keys.OUTBOX,
    "refused": lambda _: keys.OUTBOX_REFUSED,
    "workers": lambda _: keys.WORKERS,
}
"""The keys that scripts name: of a request, job or worker, or of all of them."""

_CONSTANTS: Mapping[str, str | int] = {
    "ENTRY_FIELD": keys.ENTRY_FIELD,
    "PUSH": keys.PUSH,
    "PUSH_SHARDS": keys.PUSH_SHARDS,
    "CANCEL_CHANNEL": keys.CANCEL_CHANNEL,
    "LANES": keys.LANES,
    "PARKED": keys.PARKED,
    "WATCHED": keys.WATCHED,
    "WAKE": keys.WAKE,
    "WAKE_LIFE_S": keys.WAKE_LIFETIME_S,
    "WAKE_TOKENS_MAX": keys.WAKE_TOKENS_MAX,
    "STATE_LIFE_S": keys.QUEUE_STATE_LIFETIME_S,
    "OUTBOX_LIFE_S": keys.OUTBOX_LIFETIME_S,
}
"""The constants that Lua sources use, by name."""

_KEY_FUNCTIONS: Mapping[str, Callable[[str], str]] = {
    "rec_key": keys.rec_key,
    "job_key": keys.job_key,
    "lease_key": keys.lease_key,
    "state_key": keys.queue_state_key,
    "lane_key": keys.lane_key,
    "running_key": keys.running_key,
    "worker_key": keys.worker_key,
    "dead_letter_key": keys.dead_letter_key,
}
"""The functions with which Lua sources make keys from ids that only the script knows."""


class Verdict(NamedTuple, Generic[_Status]):
    """The answer of a script: a status, and values by name."""

    status: _Status
    fields: dict[str, bytes]

    def text(self, name: str) -> str:
        """A field as text."""
        return self.fields[name].decode()

    def number(self, name: str) -> int:
        """A field as a whole number."""
        return int(self.fields[name])


class Script(Generic[_Reply]):
    """A script. Each works either on one request's record and log, or on the queue: they may be on different servers.

    Args:
        name: file name in `lua/` without its ending.
        keys: names of its keys, in order, of those in `KEYS`.
        args: names of its arguments, in order. One called `id` gets the `of` of a call.
        read: reads its reply.
        optional: arguments that a caller may leave out, and their values then.
        lanes: whether it needs `_lanes.lua`.
    """

    def __init__(
        self,
        name: str,
        *,
        keys: str,
        args: str,
        read: Callable[[list[Any]], _Reply],
        optional: Mapping[str, Argument] = MappingProxyType({}),
        lanes: bool = False,
    ) -> None:
        self.name = name
        self.keys = tuple(keys.split())
        self.args = tuple(args.split())
        self.read = read
        self._optional = optional
        self._lanes = lanes

    @cached_property
    def text(self) -> str:
        """The Lua source with all it needs. Flags, if it has any, must be its first line (Redis, "Script flags")."""
        folder = files("tailrace.broker") / "lua"
        own = (folder / f"{self.name}.lua").read_text()
        flags, own = own.split("\n", 1) if own.startswith("#!") else ("", own)
        parts = ["_prelude", "_lanes"] if self._lanes else ["_prelude"]
        sources = [(folder / f"{part}.lua").read_text() for part in parts]
        names = _lua_names("\n".join([*sources, own]))
        lines = [names, *sources, _locals("KEYS", self.keys), _locals("ARGV", self.args), own]
        return "\n".join([flags, *lines] if flags else lines)

    @cached_property
    def sha(self) -> str:
        """The hash by which EVALSHA names the script."""
        return sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def call(self, of: str = "", /, **given: Argument) -> tuple[list[str], list[Argument]]:
        """Keys and arguments in their order.

        Args:
            of: the request, job or worker that the script is called for; empty for a script on all of them.
            given: arguments by name.
        """
        given = {**self._optional, **given}
        if "id" in self.args:
            given["id"] = of
        if given.keys() != set(self.args):
            raise TypeError(f"{self.name} takes {self.args}, got {tuple(given)}")
        return [KEYS[name](of) for name in self.keys], [given[name] for name in self.args]


class VerdictReader(Generic[_Status]):
    """Reads replies that are a status, then names and values.

    Args:
        statuses: all that the script answers with.
    """

    def __init__(self, statuses: type[_Status]) -> None:
        self.statuses = statuses

    def __call__(self, reply: list[bytes]) -> Verdict[_Status]:
        fields = {name.decode(): value for name, value in zip(reply[1::2], reply[2::2], strict=True)}
        return Verdict(self.statuses(reply[0].decode()), fields)


def _locals(values: str, names: tuple[str, ...]) -> str:
    """The Lua line that gives names to KEYS or ARGV."""
    numbered = ", ".join(f"{values}[{number}]" for number in range(1, len(names) + 1))
    return f"local {', '.join(names)} = {numbered}" if names else ""


def _lua_names(source: str) -> str:
    """Definitions of the constants and functions that a source uses."""
    used = set(re.findall(r"\w+", re.sub(r"--.*", "", source)))
    lines = [f"local {name} = {_lua(value)}" for name, value in _CONSTANTS.items() if name in used]
    for name, key_of in _KEY_FUNCTIONS.items():
        if name in used:
            before, after = (_lua(part) for part in key_of("\0").split("\0"))
            lines.append(f"local function {name}(id) return {before} .. id .. {after} end")
    return "\n".join(lines)


def _lua(value: str | int) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)
