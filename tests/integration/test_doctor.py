"""`tailrace doctor` on real servers: what passes, what fails, and its advice."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from tailrace.broker import keys
from tailrace.demo.simulator import Simulator
from tailrace.demo.valkey import EmbeddedValkey
from tests.cluster_rig import cluster
from tests.postgres import EmbeddedPostgres
from tests.results_rig import migrated_database
from tests.rig import KEY

TAILRACE = Path(sys.executable).with_name("tailrace")
NO_PLACE = "redis://127.0.0.1:1/0"

Findings = dict[str, dict[str, Any]]


async def doctor(redis_url: str, base_url: str, key: str = KEY, **settings: str) -> tuple[int, Findings]:
    """The exit code, and the findings by check."""
    asked = await asyncio.create_subprocess_exec(
        *(TAILRACE, "doctor", "--json"),
        env={
            "PATH": os.environ["PATH"],
            "TAILRACE_REDIS_URL": redis_url,
            "OPENAI_BASE_URL": base_url,
            "OPENAI_API_KEY": key,
            **settings,
        },
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await asked.communicate()
    return asked.returncode or 0, {finding["check"]: finding for finding in map(json.loads, said.splitlines())}


def failed(findings: Findings) -> set[str]:
    return {name for name, finding in findings.items() if finding["level"] == "failed"}


async def test_healthy_servers_pass(redis_url: str) -> None:
    # given servers that are configured properly, expect no failure, and that no worker runs yet
    async with Simulator(key=KEY) as simulator:
        code, findings = await doctor(redis_url, simulator.url)
    assert (code, failed(findings)) == (0, set())
    assert findings["permissions"]["level"] == findings["model's server"]["level"] == "ok"
    assert "tailrace worker" in findings["workers"]["advice"]


async def test_a_server_that_may_evict_and_a_refused_key_fail() -> None:
    # given a Redis that evicts and a server that refuses the key, expect both to fail with advice, and the key nowhere
    with EmbeddedValkey(options={"maxmemory": "64mb", "maxmemory-policy": "allkeys-lru"}) as valkey:
        async with Simulator(key=KEY) as simulator:
            code, findings = await doctor(valkey.url, simulator.url, key="sk-another-key-0123456789")
    assert (code, failed(findings)) == (1, {"eviction", "model's server"})
    assert "noeviction" in findings["eviction"]["advice"]
    assert "OPENAI_API_KEY" in findings["model's server"]["advice"]
    assert "sk-another" not in json.dumps(findings)


async def test_missing_permissions_fail(tmp_path: Path) -> None:
    # given a Redis user who may neither subscribe to cancels nor push, expect both named, and the page with the rules
    rules = "user half on >half resetkeys resetchannels ~tr:* ~arq:* &tr:push:1 +@all\n"
    (tmp_path / "users.acl").write_text(rules)
    with EmbeddedValkey(options={"aclfile": str(tmp_path / "users.acl")}) as valkey:
        async with Simulator() as simulator:
            code, findings = await doctor(f"redis://half:half@127.0.0.1:{valkey.port}/0", simulator.url)
    assert (code, failed(findings)) == (1, {"permissions"})
    assert "push to readers (and 1 more)" in findings["permissions"]["found"]
    assert "docs/redis-users.md" in findings["permissions"]["advice"]


async def test_a_check_that_is_not_permitted_hides_no_other(tmp_path: Path) -> None:
    # given Redis users who each lack the permission for one check, expect that check to fail and name the page with the
    # rules, and all others to run
    denied = {"clock": "-time", "workers": "-exists", "outbox": "-xlen"}
    users = "".join(f"user {check} on >pass ~* &* +@all {rule}\n" for check, rule in denied.items())
    (tmp_path / "users.acl").write_text(f"user default on nopass ~* &* +@all\n{users}")
    with EmbeddedValkey(options={"aclfile": str(tmp_path / "users.acl")}) as valkey:
        async with Simulator(key=KEY) as simulator, Redis.from_url(valkey.url) as redis:
            await redis.xadd(keys.OUTBOX, {"id": "one"})
            for check in denied:
                code, findings = await doctor(f"redis://{check}:pass@127.0.0.1:{valkey.port}/0", simulator.url)
                assert (code, check in failed(findings)) == (1, True)
                assert "docs/redis-users.md" in findings[check]["advice"]
                assert findings["model's server"]["level"] == "ok"


async def test_all_unavailable_servers_are_found() -> None:
    # given neither a Redis nor a model's server, expect both to fail
    code, findings = await doctor(NO_PLACE, "http://127.0.0.1:1/v1")
    assert (code, failed(findings)) == (1, {"redis", "model's server"})


async def test_invalid_and_conflicting_settings_are_found(redis_url: str) -> None:
    # given an unknown setting, expect it named; given limits of which one is never reached, expect a warning
    async with Simulator() as simulator:
        code, findings = await doctor(redis_url, simulator.url, TAILRACE_LEASE="3")
        assert (code, failed(findings)) == (1, {"settings"})
        assert "TAILRACE_LEASE is not a setting" in findings["settings"]["advice"]
        code, findings = await doctor(redis_url, simulator.url, TAILRACE_RUN_LIMIT_S="30")
    assert (code, findings["settings"]["level"]) == (0, "warning")


async def test_the_servers_of_queue_and_logs_are_checked_separately(redis_url: str) -> None:
    # given a queue whose server may evict, and logs whose server is unavailable, expect each finding for its server
    with EmbeddedValkey(options={"maxmemory": "64mb", "maxmemory-policy": "allkeys-lru"}) as valkey:
        async with Simulator(key=KEY) as simulator:
            split = {"TAILRACE_QUEUE_URL": valkey.url, "TAILRACE_LOG_URL": NO_PLACE}
            code, findings = await doctor(redis_url, simulator.url, **split)
    assert (code, failed(findings)) == (1, {"eviction, queue", "redis, logs"})
    assert "TAILRACE_LOG_URL" in findings["redis, logs"]["advice"]
    assert "workers, queue" in findings


async def test_the_database_of_outcomes_and_the_outbox_are_checked(
    redis_url: str, redis: Redis, results_url: str
) -> None:
    # given a database without tables, then with them, then one that is unavailable, and an outcome that has waited for
    # long, expect each finding with advice, and no password
    async with Simulator(key=KEY) as simulator:
        code, findings = await doctor(redis_url, simulator.url, TAILRACE_RESULTS_URL=results_url)
        assert (code, failed(findings)) == (1, {"database"})
        assert findings["database"]["advice"] == "run `tailrace results migrate`"
        async with migrated_database(results_url):
            code, findings = await doctor(redis_url, simulator.url, TAILRACE_RESULTS_URL=results_url)
        assert (code, findings["database"]["level"], "outbox" in findings) == (0, "ok", False)
        await redis.xadd(keys.OUTBOX, {"id": "one"}, id="1-1")
        unavailable = "postgresql+asyncpg://tailrace:hidden-word@127.0.0.1:1/tailrace"
        code, findings = await doctor(redis_url, simulator.url, TAILRACE_RESULTS_URL=unavailable)
    assert (code, failed(findings)) == (1, {"database", "outbox"})
    assert "tailrace sink" in findings["outbox"]["advice"]
    assert "hidden-word" not in json.dumps(findings)


async def test_a_database_that_is_read_only_for_the_user_fails(redis_url: str, postgres: EmbeddedPostgres) -> None:
    # given a database user who may read the table and not write, expect a failure that names what the user needs
    postgres.ask("DROP TABLE IF EXISTS tailrace_results, tailrace_schema; DROP ROLE IF EXISTS reader")
    async with Simulator(key=KEY) as simulator, migrated_database(postgres.url):
        postgres.ask("CREATE ROLE reader LOGIN; GRANT SELECT ON tailrace_results, tailrace_schema TO reader")
        url = postgres.url.replace("postgres:s3cret-of-the-database@", "reader@")
        code, findings = await doctor(redis_url, simulator.url, TAILRACE_RESULTS_URL=url)
    assert (code, failed(findings)) == (1, {"database"})
    assert "permission denied for table tailrace_results" in findings["database"]["found"]
    assert "may read and write" in findings["database"]["advice"]


async def test_a_check_creates_no_database(redis_url: str, tmp_path: Path) -> None:
    # given an SQLite file that does not exist, expect the finding that there are no tables, and still no file
    file = tmp_path / "results.db"
    async with Simulator(key=KEY) as simulator:
        code, findings = await doctor(redis_url, simulator.url, TAILRACE_RESULTS_URL=f"sqlite+aiosqlite:///{file}")
    assert (code, failed(findings), file.exists()) == (1, {"database"}, False)
    assert findings["database"]["advice"] == "run `tailrace results migrate`"


async def test_every_node_of_a_cluster_is_checked(redis_url: str) -> None:
    # given a whole cluster, expect no failure; with one node stopped, expect that node to fail
    async with Simulator(key=KEY) as simulator, cluster() as parts:
        code, findings = await doctor(redis_url, simulator.url, TAILRACE_LOG_URL=parts.url)
        assert (code, failed(findings)) == (0, set())
        for node in parts.nodes:
            assert findings[f"mode, 127.0.0.1:{node.port}, logs"]["found"] == "a node of a Redis Cluster"
        assert findings["permissions, logs"]["level"] == findings["slots, logs"]["level"] == "ok"
        stopped = parts.nodes[0]
        stopped.stop()
        code, findings = await doctor(redis_url, simulator.url, TAILRACE_LOG_URL=parts.url)
    assert code == 1
    assert f"redis, 127.0.0.1:{stopped.port}, logs" in failed(findings)


async def test_a_node_of_a_cluster_is_not_a_single_server() -> None:
    async with Simulator(key=KEY) as simulator, cluster() as parts:
        _, findings = await doctor(parts.nodes[0].url, simulator.url)
    assert "redis+cluster://" in findings["mode"]["advice"]
