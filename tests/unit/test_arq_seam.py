"""The seam to arq: every name of arq's `Worker` that we use is listed here, and the pinned version still has it."""

import ast
from pathlib import Path

import pytest
from arq.connections import ArqRedis
from arq.worker import Function, Retry, Worker

from tailrace.worker.queue import arq_worker

USED = {
    "_last_health_check",
    "functions",
    "jobs_complete",
    "jobs_failed",
    "jobs_retried",
    "record_health",
    "tasks",
}
"""Names of a `Worker`, the private ones included. Before one is added, see what its next version does with it."""

SEAM = Path(arq_worker.__file__)


def names_on_worker(source: str) -> set[str]:
    """The attributes that a module uses of anything called `_worker`."""
    return {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr == "_worker"
    }


async def stock_worker() -> Worker:
    async def job(ctx: dict[object, object]) -> None: ...

    return Worker([job], redis_pool=ArqRedis(), handle_signals=False)


@pytest.mark.parametrize("name", sorted(USED))
async def test_arq_still_has_the_name(name: str) -> None:
    assert hasattr(await stock_worker(), name)


async def test_arq_reads_the_health_check_time_from_the_private_name() -> None:
    # given a health check that was just written, expect the next one to be skipped; there is no Redis to write it to
    worker = await stock_worker()
    worker._last_health_check = float("inf")  # pyright: ignore[reportPrivateUsage] - the name under test
    await worker.record_health()


def test_the_seam_uses_no_other_name() -> None:
    assert names_on_worker(SEAM.read_text()) == USED


def test_a_name_that_is_not_listed_is_found() -> None:
    assert names_on_worker(SEAM.read_text() + "\ndef more(arq: ArqWorker):\n    arq._worker.job_tasks.clear()\n") > USED


def test_the_worker_is_reached_in_no_other_way() -> None:
    # given the module, expect the `Worker` made once, kept under the one name looked at above, and never passed on
    tree = ast.parse(SEAM.read_text())
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "Worker"]
    [made] = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.func in uses]
    assert len(uses) == 1
    [kept] = [node for node in ast.walk(tree) if isinstance(node, ast.Assign) and node.value is made]
    assert ast.unparse(kept.targets[0]) == "self._worker"
    passed_on = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "_worker" and isinstance(node.ctx, ast.Load)
    ]
    attributes = [node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    assert [node for node in passed_on if node not in attributes] == []


def test_no_other_module_of_the_queue_imports_arq() -> None:
    # the import contracts in pyproject.toml hold this for every other package
    others = [path for path in SEAM.parent.glob("*.py") if path != SEAM]
    imported = {
        alias.name if isinstance(node, ast.Import) else node.module or ""
        for path in others
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert len(others) > 5
    assert [name for name in imported if name.split(".")[0] == "arq"] == []


def test_what_is_used_of_functions_and_retries() -> None:
    assert {"coroutine", "name"} <= set(Function.__dataclass_fields__)
    assert (Retry(defer=1.5).defer_score, Retry().defer_score) == (1500, None)
