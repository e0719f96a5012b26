"""What docker-compose.yml and Dockerfile guarantee: nothing evicted, lost or exposed; workers can be scaled."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tailrace.schemas.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_valkey_persists_and_never_evicts() -> None:

    command: list[str] = SERVICES["valkey"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert "--maxmemory" in options
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert [volume.split(":")[1] for volume in SERVICES["valkey"]["volumes"]] == ["/data"]
    assert SERVICES["valkey"]["volumes"][0].split(":")[0] in COMPOSE["volumes"]


def test_workers_can_be_scaled() -> None:
    # a fixed name or a published port would conflict between instances
    assert {"container_name", "ports", "hostname"} & SERVICES["worker"].keys() == set()


ONCE = {name for name, service in SERVICES.items() if service.get("restart") == "no"}
"""Services that run once and exit."""
THEIRS = {"valkey", "postgres", "prometheus"}
"""Third-party images."""


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_every_service_has_a_health_check_or_runs_once(service: str) -> None:
    assert service in ONCE or SERVICES[service]["healthcheck"]["test"]


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_every_service_has_limits_and_a_read_only_file_system(service: str) -> None:

    given = SERVICES[service]
    assert given["mem_limit"]
    assert given["read_only"] is True
    assert given["security_opt"] == ["no-new-privileges:true"]
    assert service in THEIRS or given["cap_drop"] == ["ALL"]


def test_ports_are_published_on_this_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_the_sink_starts_after_the_migration_and_the_database_is_kept() -> None:

    urls = {SERVICES[name]["environment"]["TAILRACE_RESULTS_URL"] for name in ("sink", "migrate", "gateway")}
    assert urls == {"postgresql+asyncpg://tailrace:${POSTGRES_PASSWORD:-tailrace}@postgres:5432/tailrace"}
    assert "TAILRACE_RESULTS_URL" not in SERVICES["worker"]["environment"]
    assert SERVICES["sink"]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    assert SERVICES["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert SERVICES["postgres"]["volumes"][0].split(":")[0] in COMPOSE["volumes"]


def test_prometheus_scrapes_services_that_serve_metrics() -> None:

    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    places = [place for job in scraped for place in job["dns_sd_configs"]]
    assert {name for place in places for name in place["names"]} == {"worker", "gateway"}
    for place in places:
        for name in place["names"]:
            environment = SERVICES[name]["environment"]
            assert environment["TAILRACE_METRICS_PORT"] == str(place["port"])
            assert environment["TAILRACE_METRICS_HOST"] == "0.0.0.0"  # noqa: S104 - only inside the network of compose
    mounted = [volume.split(":")[0] for volume in SERVICES["prometheus"]["volumes"] if volume.startswith("./")]
    assert [path for path in mounted if not (ROOT / path).is_file()] == []


def test_the_worker_waits_for_a_healthy_valkey_and_has_time_to_drain() -> None:

    worker = SERVICES["worker"]
    assert worker["depends_on"]["valkey"]["condition"] == "service_healthy"
    assert float(worker["stop_grace_period"].removesuffix("s")) > Settings.from_environment({}).drain_s
    assert "STOPSIGNAL SIGTERM" in DOCKERFILE


def test_api_keys_come_from_the_environment_only() -> None:

    environment: dict[str, str | None] = SERVICES["worker"]["environment"]
    assert environment["OPENAI_API_KEY"] is None
    assert environment["OPENAI_BASE_URL"] is None
    assert (
        environment["TAILRACE_REDIS_URL"]
        == "${TAILRACE_REDIS_URL:-redis://worker:${WORKER_PASSWORD:-worker}@valkey:6379/0}"
    )


def test_the_simulator_runs_only_with_its_profile() -> None:
    assert SERVICES["simulator"]["profiles"] == ["simulator"]
    always = {name for name, service in SERVICES.items() if "profiles" not in service}
    assert always == {"valkey", "worker", "sink", "migrate", "postgres", "prometheus"}


def test_the_image_uses_the_lock_file_and_does_not_run_as_root() -> None:

    assert "tailrace[web,sql,otel,top]" in DOCKERFILE
    assert "--require-hashes -r requirements.lock" in DOCKERFILE
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER (?!root)\w+$", last_stage, re.MULTILINE)
    assert not re.search(r"^RUN ", last_stage.partition("\nUSER ")[2], re.MULTILINE)
    assert 'CMD ["tailrace", "worker", "--check"]' in last_stage
