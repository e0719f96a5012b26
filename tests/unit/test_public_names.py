"""What `tailrace` offers: the names, the places where they are, and what their import costs."""

import ast
import importlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import tailrace
from tailrace.schemas import deltas, errors

SOURCE = Path(tailrace.__file__).read_text()
NOT_FOR_CLIENTS = ("openai", "arq.worker", "starlette", "sqlalchemy", "textual", "redis", "pydantic", "asyncio")


def imports_for_type_checkers() -> dict[str, str]:
    """The names under `if TYPE_CHECKING`, with their modules."""
    block = next(node for node in ast.parse(SOURCE).body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom) and node.module != "typing"]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def table() -> dict[str, str]:
    """The names that `__getattr__` finds, with their modules."""
    modules = tailrace._MODULES  # pyright: ignore[reportPrivateUsage] - this is its test
    return {name: f"tailrace.{module}" for module, names in modules.items() for name in names.split()}


def test_table_and_imports_and_all_agree() -> None:
    assert table() == imports_for_type_checkers()
    assert set(tailrace.__all__) == {*table(), "__version__"}
    assert len(tailrace.__all__) == len(set(tailrace.__all__))
    assert dir(tailrace) == sorted(tailrace.__all__)


@pytest.mark.parametrize("name", sorted(table()))
def test_every_name_is_what_its_module_has(name: str) -> None:
    assert getattr(tailrace, name) is getattr(importlib.import_module(table()[name]), name)


def test_every_entry_and_every_error_is_there() -> None:
    entries = {kind.__name__ for kind in deltas.Entry.__subclasses__()}
    all_errors = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert entries | all_errors <= set(tailrace.__all__)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        getattr(tailrace, "Nothing")  # noqa: B009 - type checkers know that it does not exist


def test_the_version_is_that_of_the_package() -> None:
    assert tailrace.__version__ == importlib.metadata.version("tailrace")


def modules_after(statement: str) -> set[str]:
    program = f"import sys; before = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_tailrace_imports_nothing_else() -> None:
    assert modules_after("import tailrace") == {"tailrace"}


@pytest.mark.parametrize("name", ["Client", "SyncClient", "ClientOptions"])
def test_a_client_is_imported_without_what_it_needs_later(name: str) -> None:
    loaded = modules_after(f"from tailrace import {name}")
    wanted = set(NOT_FOR_CLIENTS) - ({"asyncio"} if name == "SyncClient" else set[str]())
    assert loaded & wanted == set()


def test_a_connected_client_needs_no_library_of_other_parts() -> None:
    loaded = modules_after("import tailrace.producers.parts, tailrace.producers.sync.tail")
    assert loaded & {"openai", "arq", "starlette", "sqlalchemy", "textual", "tailrace.worker"} == set()
