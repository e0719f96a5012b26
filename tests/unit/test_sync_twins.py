"""Every synchronous class has the methods of its asynchronous twin, with the same parameters."""

import inspect
from typing import Any

import pytest

from tailrace import Client, DeadLetters, Stream, SyncClient, SyncDeadLetters, SyncStream, SyncTail, Tail

NAMES = {
    "aclose": "close",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
}
NOT_COMPARED = {"in_form", "request_id", "submission"}  # for the gateway alone; attributes that instances have
TWINS = [(Client, SyncClient), (Tail, SyncTail), (Stream, SyncStream), (DeadLetters, SyncDeadLetters)]


def members(kind: type[Any]) -> dict[str, Any]:
    """Public members and those of the protocols of `with` and `for`, inherited ones included."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__[:-1]):
        found |= vars(base)
    protocols = {*NAMES, *NAMES.values()}
    names = [name for name in found if name in protocols or not name.startswith("_")]
    return {name: found[name] for name in names if name not in NOT_COMPARED}


def parameters(member: Any) -> list[tuple[str, Any, Any]] | str:
    """Names, kinds and defaults; for an attribute, that it is one."""
    function: Any = getattr(member, "__func__", member)
    if not callable(function):
        return "attribute"
    return [(one.name, one.kind, one.default) for one in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(("asynchronous", "synchronous"), TWINS)
def test_the_twins_have_the_same_members(asynchronous: type[Any], synchronous: type[Any]) -> None:
    wanted = {NAMES.get(name, name): parameters(member) for name, member in members(asynchronous).items()}
    assert {name: parameters(member) for name, member in members(synchronous).items()} == wanted


def test_the_clients_are_made_alike() -> None:
    assert inspect.signature(Client.__init__) == inspect.signature(SyncClient.__init__)
