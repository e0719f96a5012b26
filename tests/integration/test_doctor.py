"""`tailrace doctor` on real servers: what is sound, what is wrong, and what it says to do about it."""

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
    """Exit code, and findings by what was looked at."""
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


def bad(findings: Findings) -> set[str]:
    return {name for name, finding in findings.items() if finding["level"] == "bad"}


async def test_what_is_sound_is_said_to_be(redis_url: str) -> None:
    # given servers as they should be, expect nothing bad, and that no worker runs yet
    async with Simulator(key=KEY) as simulator:
        code, findings = await doctor(redis_url, simulator.url)
    assert (code, bad(findings)) == (0, set())
    assert findings["rights"]["level"] == findings["model's server"]["level"] == "good"
    assert "tailrace worker" in findings["workers"]["advice"]


async def test_a_server_that_may_evict_and_a_key_that_is_refused_are_found() -> None:
    # given a Redis that evicts and a server that refuses the key, expect both, advice, exit code 1, and the key nowhere
    with EmbeddedValkey(options={"maxmemory": "64mb", "maxmemory-policy": "allkeys-lru"}) as valkey:
        async with Simulator(key=KEY) as simulator:
            code, findings = await doctor(valkey.url, simulator.url, key="sk-another-key-0123456789")
    assert (code, bad(findings)) == (1, {"eviction", "model's server"})
    assert "noeviction" in findings["eviction"]["advice"]
    assert "OPENAI_API_KEY" in findings["model's server"]["advice"]
    assert "sk-another" not in json.dumps(findings)


async def test_rights_that_a_user_lacks_are_found(tmp_path: Path) -> None:
    # given a Redis user who may not hear cancels nor push, expect what it may not, and where the rules stand
    rules = "user half on >half resetkeys resetchannels ~tr:* ~arq:* &tr:push:1 +@all\n"
    (tmp_path / "users.acl").write_text(rules)
    with EmbeddedValkey(options={"aclfile": str(tmp_path / "users.acl")}) as valkey:
        async with Simulator() as simulator:
            code, findings = await doctor(f"redis://half:half@127.0.0.1:{valkey.port}/0", simulator.url)
    assert (code, bad(findings)) == (1, {"rights"})
    assert "push to readers (and 1 more)" in findings["rights"]["found"]
    assert "docs/redis-users.md" in findings["rights"]["advice"]


async def test_what_a_user_may_not_look_at_hides_nothing_else(tmp_path: Path) -> None:
    # given Redis users who may not ask for one thing or another, expect each said, with where the rules stand, and all
    # the rest looked at
    denied = {"clock": "-time", "workers": "-exists", "outbox": "-xlen"}
    users = "".join(f"user {check} on >pass ~* &* +@all {rule}\n" for check, rule in denied.items())
    (tmp_path / "users.acl").write_text(f"user default on nopass ~* &* +@all\n{users}")
    with EmbeddedValkey(options={"aclfile": str(tmp_path / "users.acl")}) as valkey:
        async with Simulator(key=KEY) as simulator, Redis.from_url(valkey.url) as redis:
            await redis.xadd(keys.OUTBOX, {"id": "one"})
            for check in denied:
                code, findings = await doctor(f"redis://{check}:pass@127.0.0.1:{valkey.port}/0", simulator.url)
                assert (code, check in bad(findings)) == (1, True)
                assert "docs/redis-users.md" in findings[check]["advice"]
                assert findings["model's server"]["level"] == "good"


async def test_servers_that_are_away_are_found_one_beside_the_other() -> None:
    # given neither a Redis nor a model's server, expect both to be said
    code, findings = await doctor(NO_PLACE, "http://127.0.0.1:1/v1")
    assert (code, bad(findings)) == (1, {"redis", "model's server"})


async def test_settings_that_cannot_be_used_or_do_not_go_together_are_found(redis_url: str) -> None:
    # given a setting that is none, expect it named; given limits of which one is never reached, expect that said
    async with Simulator() as simulator:
        code, findings = await doctor(redis_url, simulator.url, TAILRACE_LEASE="3")
        assert (code, bad(findings)) == (1, {"settings"})
        assert "TAILRACE_LEASE is not a setting" in findings["settings"]["advice"]
        code, findings = await doctor(redis_url, simulator.url, TAILRACE_RUN_LIMIT_S="30")
    assert (code, findings["settings"]["level"]) == (0, "note")


async def test_the_queues_server_and_that_of_the_logs_are_looked_at_apart(redis_url: str) -> None:
    # given a queue whose server may evict, and logs whose server is away, expect each told of the one it is true of
    with EmbeddedValkey(options={"maxmemory": "64mb", "maxmemory-policy": "allkeys-lru"}) as valkey:
        async with Simulator(key=KEY) as simulator:
            split = {"TAILRACE_QUEUE_URL": valkey.url, "TAILRACE_LOG_URL": NO_PLACE}
            code, findings = await doctor(redis_url, simulator.url, **split)
    assert (code, bad(findings)) == (1, {"eviction, queue", "redis, logs"})
    assert "TAILRACE_LOG_URL" in findings["redis, logs"]["advice"]
    assert "workers, queue" in findings


async def test_a_database_of_outcomes_and_what_waits_for_it_are_looked_at(
    redis_url: str, redis: Redis, results_url: str
) -> None:
    # given a database without tables, then with them, then one that is away, and an outcome that has waited since long
    # ago, expect each said, with what to do, and no password
    async with Simulator(key=KEY) as simulator:
        code, findings = await doctor(redis_url, simulator.url, TAILRACE_RESULTS_URL=results_url)
        assert (code, bad(findings)) == (1, {"database"})
        assert findings["database"]["advice"] == "run `tailrace results migrate`"
        async with migrated_database(results_url):
            code, findings = await doctor(redis_url, simulator.url, TAILRACE_RESULTS_URL=results_url)
        assert (code, findings["database"]["level"], "outbox" in findings) == (0, "good", False)
        await redis.xadd(keys.OUTBOX, {"id": "one"}, id="1-1")
        away = "postgresql+asyncpg://tailrace:hidden-word@127.0.0.1:1/tailrace"
        code, findings = await doctor(redis_url, simulator.url, TAILRACE_RESULTS_URL=away)
    assert (code, bad(findings)) == (1, {"database", "outbox"})
    assert "tailrace sink" in findings["outbox"]["advice"]
    assert "hidden-word" not in json.dumps(findings)


async def test_a_database_that_only_lets_itself_be_read_is_found(redis_url: str, postgres: EmbeddedPostgres) -> None:
    # given a user of the database who may read the table and not write, expect that said, and what he needs
    postgres.ask("DROP TABLE IF EXISTS tailrace_results, tailrace_schema; DROP ROLE IF EXISTS reader")
    async with Simulator(key=KEY) as simulator, migrated_database(postgres.url):
        postgres.ask("CREATE ROLE reader LOGIN; GRANT SELECT ON tailrace_results, tailrace_schema TO reader")
        url = postgres.url.replace("postgres:s3cret-of-the-database@", "reader@")
        code, findings = await doctor(redis_url, simulator.url, TAILRACE_RESULTS_URL=url)
    assert (code, bad(findings)) == (1, {"database"})
    assert "permission denied for table tailrace_results" in findings["database"]["found"]
    assert "may read and write" in findings["database"]["advice"]


async def test_looking_makes_no_database(redis_url: str, tmp_path: Path) -> None:
    # given a file of an SQLite that is not there, expect that there are no tables, and still no file
    file = tmp_path / "results.db"
    async with Simulator(key=KEY) as simulator:
        code, findings = await doctor(redis_url, simulator.url, TAILRACE_RESULTS_URL=f"sqlite+aiosqlite:///{file}")
    assert (code, bad(findings), file.exists()) == (1, {"database"}, False)
    assert findings["database"]["advice"] == "run `tailrace results migrate`"


async def test_every_node_of_a_cluster_is_looked_at(redis_url: str) -> None:
    # given a whole cluster, expect nothing bad; with one node away, expect that named
    async with Simulator(key=KEY) as simulator, cluster() as parts:
        code, findings = await doctor(redis_url, simulator.url, TAILRACE_LOG_URL=parts.url)
        assert (code, bad(findings)) == (0, set())
        for node in parts.nodes:
            assert findings[f"mode, 127.0.0.1:{node.port}, logs"]["found"] == "a node of a Redis Cluster"
        assert findings["rights, logs"]["level"] == findings["slots, logs"]["level"] == "good"
        away = parts.nodes[0]
        away.stop()
        code, findings = await doctor(redis_url, simulator.url, TAILRACE_LOG_URL=parts.url)
    assert code == 1
    assert f"redis, 127.0.0.1:{away.port}, logs" in bad(findings)


async def test_a_node_of_a_cluster_is_no_server_of_its_own() -> None:
    async with Simulator(key=KEY) as simulator, cluster() as parts:
        _, findings = await doctor(parts.nodes[0].url, simulator.url)
    assert "redis+cluster://" in findings["mode"]["advice"]
