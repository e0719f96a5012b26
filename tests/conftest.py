"""Shared by all tests: a private Valkey, an environment without the developer's settings, Hypothesis profiles."""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from redis.asyncio import Redis

from tailrace.demo.simulator import Simulator
from tailrace.demo.valkey import EmbeddedValkey
from tests.postgres import EmbeddedPostgres

# The same bounds everywhere. A deadline would measure the machine, not the code; `long` is for a search on demand.
settings.register_profile("default", deadline=None, max_examples=100)
settings.register_profile("ci", deadline=None, max_examples=100, derandomize=True, print_blob=True, database=None)
settings.register_profile("long", deadline=None, max_examples=5_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "default"))


@pytest.fixture(scope="session", autouse=True)
def _clean_environment() -> Iterator[None]:
    """Keeps the developer's keys, URLs and settings away from tests and the programs that they start."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("TAILRACE_", "OPENAI_")):
                patch.delenv(name)
        yield


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Restores Ctrl-C: a shell starts background jobs with SIGINT ignored, and programs of tests would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def _shared_valkey() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as valkey:
        yield valkey


@pytest.fixture
def valkey(_shared_valkey: EmbeddedValkey) -> EmbeddedValkey:
    """The session's server, empty and without scripts. A test that stops or configures a server makes its own."""
    for command in ("CLIENT UNPAUSE", "FLUSHALL SYNC", "SCRIPT FLUSH SYNC"):
        assert _shared_valkey.ask(command) == "+OK"
    return _shared_valkey


@pytest.fixture
def redis_url(valkey: EmbeddedValkey) -> str:
    """URL of an empty database of a real server."""
    return valkey.url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client of that server, to inspect its data."""
    async with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """A simulated model server, which answers and fails as a request asks it to."""
    async with Simulator() as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A real server. A test that stops it starts it again."""
    with EmbeddedPostgres() as running:
        yield running


@pytest.fixture(params=["postgresql", "sqlite"])
def results_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database for outcomes, of each kind."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/results.db"
    postgres: EmbeddedPostgres = request.getfixturevalue("postgres")
    postgres.ask("DROP TABLE IF EXISTS tailrace_results, tailrace_schema")
    return postgres.url
