"""What docker-compose.yml and Dockerfile promise: nothing evicted, lost or exposed; workers can be many."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_valkey_keeps_what_it_accepted() -> None:
    # given the server's command, if read as options, expect append-only and no eviction, on a volume that stays
    command: list[str] = SERVICES["valkey"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert [volume.split(":")[1] for volume in SERVICES["valkey"]["volumes"]] == ["/data"]
    assert SERVICES["valkey"]["volumes"][0].split(":")[0] in COMPOSE["volumes"]


def test_valkey_is_reached_from_this_machine_only() -> None:
    # given the published ports, if any, expect each bound to the loopback
    assert [port for port in SERVICES["valkey"]["ports"] if not port.startswith("127.0.0.1:")] == []


def test_workers_can_be_scaled() -> None:
    # given a service with a fixed name or a published port, if scaled, it would clash: expect neither on the worker
    assert {"container_name", "ports", "hostname"} & SERVICES["worker"].keys() == set()


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_every_service_has_a_health_check(service: str) -> None:
    assert SERVICES[service]["healthcheck"]["test"]


def test_the_worker_waits_for_a_healthy_valkey_and_drains_in_peace() -> None:
    # given the drain's default, if the worker is stopped, expect more time than a drain takes before it is killed
    worker = SERVICES["worker"]
    assert worker["depends_on"]["valkey"]["condition"] == "service_healthy"
    assert float(worker["stop_grace_period"].removesuffix("s")) > Settings.from_environment({}).drain_s
    assert "STOPSIGNAL SIGTERM" in DOCKERFILE


def test_keys_come_from_the_environment_and_are_written_nowhere() -> None:
    # given the worker's environment, if a value stands in the file, expect it to be a reference, never a key
    environment: dict[str, str | None] = SERVICES["worker"]["environment"]
    assert environment["OPENAI_API_KEY"] is None
    assert environment["OPENAI_BASE_URL"] is None
    assert (
        environment["TAILRACE_REDIS_URL"]
        == "${TAILRACE_REDIS_URL:-redis://worker:${WORKER_PASSWORD:-worker}@valkey:6379/0}"
    )


def test_the_simulator_runs_only_when_asked_for() -> None:
    assert SERVICES["simulator"]["profiles"] == ["simulator"]
    assert [name for name, service in SERVICES.items() if "profiles" not in service] == ["valkey", "worker"]


def test_the_image_is_made_from_the_lock_and_does_not_run_as_root() -> None:
    # given the Dockerfile, expect hashes checked, a user of its own after the last build step, and a health check
    assert "--require-hashes -r requirements.lock" in DOCKERFILE
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER (?!root)\w+$", last_stage, re.MULTILINE)
    assert not re.search(r"^RUN ", last_stage.partition("\nUSER ")[2], re.MULTILINE)
    assert 'CMD ["tailrace", "worker", "--check"]' in last_stage
