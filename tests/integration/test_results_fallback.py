"""Client, commands and gateway read an outcome from the database when Redis no longer has it."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis

from tailrace.broker import keys
from tailrace.producers.client import Client
from tailrace.producers.options import ClientOptions
from tailrace.producers.sync.client import SyncClient
from tailrace.schemas.codec import encode_outcome
from tailrace.schemas.errors import ResultsUnavailable, SettingsError, UnknownRequest
from tailrace.schemas.outcome import Outcome
from tests.gateway_rig import Served, events, gateway
from tests.results_rig import engine_of, migrated_database, stored_outcomes
from tests.rig import rig
from tests.until import until

TAILRACE = Path(sys.executable).with_name("tailrace")
AWAY = "postgresql+asyncpg://tailrace:hidden-word@127.0.0.1:1/tailrace"


@pytest.fixture
async def forgotten(redis_url: str, redis: Redis, results_url: str) -> AsyncIterator[Outcome]:
    """An ended request of tenant acme that is in the database and no longer in Redis."""
    async with migrated_database(results_url), engine_of(results_url) as engine:
        async with rig(redis_url, results_url=results_url) as at:
            request_id = await at.submit(tenant="acme", priority="high", metadata={"k": "v"})
            outcome = await at.outcome(request_id)

            async def written() -> bool:
                return request_id in await stored_outcomes(engine)

            await until(written)
        await redis.flushall()
        yield outcome


async def test_the_client_reads_the_database(redis_url: str, results_url: str, forgotten: Outcome) -> None:
    # given a request that only the database has, expect outcome, status and snapshot, and nothing to cancel; given an
    # unused id, or no database, expect `UnknownRequest`
    request_id = forgotten.request_id or ""
    async with Client(redis_url, ClientOptions(results_url=results_url)) as client:
        assert await client.result(request_id) == forgotten
        assert await client.result(request_id, wait_s=5) == forgotten
        status = await client.status(request_id)
        assert (status.status, status.tenant, status.priority) == ("completed", "acme", "high")
        assert (status.finished_at, status.attempt) == (forgotten.finished_at, forgotten.attempt)
        assert status.submitted_at < status.deadline_at
        assert await client.cancel(request_id) == ("finished", "completed")
        snapshot = await client.snapshot(request_id)
        assert isinstance(snapshot.outcome, msgspec.Raw)
        assert bytes(snapshot.outcome) == encode_outcome(forgotten)
        for wrong in ("never", "no/id"):
            with pytest.raises(UnknownRequest):
                await client.result(wrong)
    async with Client(redis_url) as without:
        with pytest.raises(UnknownRequest):
            await without.result(request_id)


def test_the_sync_client_reads_the_database(redis_url: str, results_url: str, forgotten: Outcome) -> None:
    with SyncClient(redis_url, ClientOptions(results_url=results_url)) as client:
        assert client.result(forgotten.request_id or "") == forgotten


async def test_an_unavailable_database_does_not_mean_an_unknown_request(redis_url: str) -> None:
    # given a database that is unavailable, expect `ResultsUnavailable` without its password for a request that is not
    # in Redis, and no error for one that is
    async with Client(redis_url, ClientOptions(results_url=AWAY)) as client:
        with pytest.raises(ResultsUnavailable) as told:
            await client.result("one")
        assert "hidden-word" not in str(told.value)
        submitted = await client.submit(model="sim", messages=[{"role": "user", "content": "x"}])
        assert (await client.status(submitted.id)).status == "queued"
    with pytest.raises(SettingsError):
        await Client(redis_url, ClientOptions(results_url="mysql://x/y")).__aenter__()


async def test_a_database_that_hangs_is_unavailable(redis_url: str, unused_tcp_port: int) -> None:
    # given a database that accepts connections and never answers, expect an error within the time limit
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", unused_tcp_port)
    url = f"postgresql+asyncpg://tailrace@127.0.0.1:{unused_tcp_port}/tailrace?ssl=disable"
    async with server, Client(redis_url, ClientOptions(results_url=url, results_timeout_s=0.5)) as client:
        with pytest.raises(ResultsUnavailable):
            await client.result("one")


async def test_the_commands_read_the_database(redis_url: str, results_url: str, forgotten: Outcome) -> None:
    # given the database in the environment, expect `result` and `status` to find it
    environment = {"PATH": os.environ["PATH"], "TAILRACE_REDIS_URL": redis_url, "TAILRACE_RESULTS_URL": results_url}
    for command in (["result"], ["status", "--json"]):
        asked = await asyncio.create_subprocess_exec(
            *(TAILRACE, *command, forgotten.request_id or ""), env=environment, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await asked.communicate()
        assert (asked.returncode, json.loads(said)["status"]) == (0, "completed")


async def test_the_gateway_reads_the_database(
    redis_url: str, results_url: str, forgotten: Outcome, tmp_path: Path
) -> None:
    # given the tenant's own key, expect status, outcome and an event stream that ends for good; given another tenant's
    # key, or an id of nobody, expect a 404
    here = f"/v1/streams/{forgotten.request_id}"
    async with gateway(redis_url, tmp_path, results_url=results_url) as served:
        answer = (await served.http.get(here)).json()
        assert (answer["state"]["status"], answer["outcome"]["content"]) == ("completed", forgotten.content)
        assert (await served.http.post(f"{here}/cancel")).json()["verdict"] == "finished"
        told = await events(served.http, f"{here}/events")
        assert [event.name for event in told] == ["snapshot", "completed"]
        assert told[0].entry["outcome"]["content"] == forgotten.content
        told = await events(served.http, f"{here}/events?snapshot=1", {"last-event-id": "1-2"})
        assert [event.name for event in told] == ["gap", "snapshot", "completed"]
        again = await events(served.http, f"{here}/events", {"last-event-id": told[1].id or ""})
        assert [event.name for event in again] == ["completed"]
        assert await _status(served, f"{here}/events", told[2].id or "") == 204
        assert await _status(served, "/v1/streams/never/events", "") == 404
        assert await _status(served, "/readyz", "") == 200
    async with gateway(redis_url, tmp_path, tenant="other", results_url=results_url) as other:
        for path in (here, f"{here}/events"):
            assert await _status(other, path, "") == 404
        assert (await other.http.post(f"{here}/cancel")).status_code == 404


async def _status(served: Served, path: str, cursor: str) -> int:
    return (await served.http.get(path, headers={"last-event-id": cursor} if cursor else {})).status_code


async def test_the_gateway_while_its_database_is_unavailable(redis_url: str, tmp_path: Path) -> None:
    # given a database that is away, expect a gateway that is ready, that says of the unknown to try again, and to a
    # browser's event stream to come back; and nothing of it in what waits
    async with gateway(redis_url, tmp_path, results_url=AWAY) as served:
        assert await _status(served, "/readyz", "") == 200
        assert await _status(served, "/v1/streams/one", "") == 503
        submitted = await served.submit({"model": "sim", "messages": [{"role": "user", "content": "x"}]})
        assert await _status(served, submitted["links"]["self"], "") == 200


async def test_an_outcome_in_the_outbox_is_read_from_its_record(redis_url: str, redis: Redis, tmp_path: Path) -> None:
    # given a log whose retention is over, and a record that stays for a database that is away, expect the outcome still
    async with rig(redis_url, results_url=AWAY) as at:
        request_id = await at.submit(tenant="acme")
        outcome = await at.outcome(request_id)
        await redis.delete(keys.log_key(request_id))
        assert await at.client.result(request_id) == outcome
        assert (await at.client.cancel(request_id)).verdict == "finished"
        async with gateway(redis_url, tmp_path, results_url=AWAY) as served:
            told = await events(served.http, f"/v1/streams/{request_id}/events")
            assert [event.name for event in told] == ["snapshot", "completed"]
