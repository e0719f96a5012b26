"""Every log line of worker and gateway has an event name, and docs/logging.md lists exactly these names."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_PARTS = ("broker", "producers", "schemas", "telemetry", "worker")
_MODULES = [path for part in _PARTS for path in sorted((_ROOT / part).rglob("*.py"))]
_LEVELS = frozenset({"critical", "debug", "error", "exception", "info", "log", "warning"})
_HELPER = _ROOT / "worker/observe/log_events.py"
"""The one module in which an event's name is a parameter."""


def _called(call: ast.Call) -> str:
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def _is_log_call(call: ast.Call, loggers: set[str]) -> bool:
    match call.func:
        case ast.Attribute(value=ast.Call() as made, attr=level):
            return level in _LEVELS and _called(made) == "getLogger"
        case ast.Attribute(value=ast.Name(id=name), attr=level):
            return level in _LEVELS and name in {*loggers, "logging"}
        case _:
            return False


def _event(node: ast.expr | None) -> str | None:
    """The event's name, where it is a literal in snake_case."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[a-z]+(_[a-z]+)*", node.value):
        return node.value
    return None


def events(source: str) -> Iterator[tuple[int, str | None]]:
    """For each call that logs: its line, and the event's name, or None where it has none."""
    tree = ast.parse(source)
    loggers = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and _called(node.value) == "getLogger"
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        if _called(call) == "log_event":
            yield call.lineno, _event(call.args[0])
        elif _is_log_call(call, loggers):
            extra = next((given.value for given in call.keywords if given.arg == "extra"), None)
            is_named = isinstance(extra, ast.Call) and _called(extra) == "fields" and extra.args
            yield call.lineno, _event(extra.args[0]) if isinstance(extra, ast.Call) and is_named else None


@pytest.mark.parametrize("module", _MODULES, ids=lambda module: str(module.relative_to(_ROOT)))
def test_every_log_call_names_its_event(module: Path) -> None:
    if module != _HELPER:
        assert [line for line, event in events(module.read_text()) if event is None] == []


def test_the_documented_events_are_those_in_the_code() -> None:
    in_code = {event for module in _MODULES for _, event in events(module.read_text()) if event is not None}
    documented = re.findall(r"^\| `([a-z_]+)` \|", (_ROOT / "docs/logging.md").read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(in_code)


@pytest.mark.parametrize(
    "line",
    [
        '_logger.info("text")',
        '_logger.info("text", extra=fields("two words"))',
        '_logger.info("text", extra=fields(name))',
        '_logger.warning("text", extra=prepared)',
        'logging.getLogger("tailrace").error("text")',
        'logging.error("text")',
        "log_event(name, request_id)",
    ],
)
def test_a_call_without_an_event_is_found(line: str) -> None:
    assert list(events(f'_logger = logging.getLogger("tailrace")\n{line}')) == [(2, None)]
