"""The dashboard and the alert rules match the table of metrics; promtool also tests the rules."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tailrace.telemetry.metrics import METRICS

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus/rules.yml"
DASHBOARD = DEPLOY / "grafana/tailrace.json"

_SCRAPE_LABELS = {"instance", "job"}
_WORDS = {
    *("sum", "max", "min", "count", "by", "and", "or", "ignoring", "group_left", "offset", "rate", "increase"),
    *("histogram_quantile", "absent", "label_values", "m"),
}
_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
NAMES = {metric.name + suffix: metric for metric in METRICS for suffix in _SUFFIXES[metric.kind]}


def rules() -> list[tuple[str, str, dict[str, Any]]]:
    """The name and expression of each alert, and the whole rule."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [(rule["alert"], rule["expr"], rule) for group in groups for rule in group["rules"]]


def panels() -> list[tuple[str, str]]:
    """The title and expression of every target of every panel, and of the variables."""
    board = json.loads(DASHBOARD.read_text())
    found = [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel.get("targets", ())]
    variables = [
        (variable["name"], variable["definition"])
        for variable in board["templating"]["list"]
        if "definition" in variable
    ]
    return found + variables


EXPRESSIONS = [(name, expression) for name, expression, _ in rules()] + panels()


def faults(expression: str) -> Iterator[str]:
    """The names in a PromQL expression that are not in the table of metrics.

    It splits the expression into words, without PromQL's grammar: a name before a brace, labels inside braces and in
    lists of labels. Every word must be a metric, a label of one, or a known word of PromQL, so no name is skipped.
    """
    bare = re.sub(r'"[^"]*"', '""', expression)
    used = set(re.findall(r"\btailrace_\w+", bare))
    yield from (f"no metric: {name}" for name in used - NAMES.keys())
    labels = {label for name in used & NAMES.keys() for label in NAMES[name].all_labels} | _SCRAPE_LABELS
    if any(name.endswith("_bucket") for name in used):
        labels.add("le")
    for name, inside in re.findall(r"(\w+)\{([^}]*)\}", bare):
        own = {*NAMES[name].all_labels, *_SCRAPE_LABELS} if name in NAMES else set[str]()
        yield from (f"{name} has no label {label}" for label in re.findall(r"(\w+)\s*[=!]", inside) if label not in own)
    words = set(re.findall(r"\b[a-z][a-z_]*\b", re.sub(r"\$\w+|\[[^\]]*\]|\b\d\w*", "", bare)))
    yield from (f"neither a metric, a label nor a word of PromQL: {word}" for word in words - used - labels - _WORDS)


@pytest.mark.parametrize(
    ("name", "expression"), EXPRESSIONS, ids=[f"{name}: {text[:40]}" for name, text in EXPRESSIONS]
)
def test_every_name_and_label_is_in_the_table(name: str, expression: str) -> None:
    assert list(faults(expression)) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "sum(tailrace_nothing_total)",
        "sum(tailrace_starts)",
        "rate(tailrace_commit_duration_seconds[5m])",
        'tailrace_outcomes_total{tenant="acme"}',
        "sum by (tenant) (tailrace_outcomes_total)",
        "sum by (le) (tailrace_running_requests)",
        "sum(trailrace_starts_total)",
    ],
)
def test_names_outside_the_table_are_found(wrong: str) -> None:
    assert list(faults(wrong)) != []


@pytest.mark.parametrize(("alert", "rule"), [(alert, rule) for alert, _, rule in rules()])
def test_an_alert_has_a_summary_and_an_action(alert: str, rule: dict[str, Any]) -> None:
    assert alert.startswith("Tailrace")
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "action"}
    named = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
    assert all(re.search(rf"\b{label}\b", rule["expr"]) for label in named)


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {NAMES[name].name for _, expression in panels() for name in re.findall(r"tailrace_\w+", expression)}
    assert {metric.name for metric in METRICS} - shown == set()


def test_panels_do_not_overlap_and_have_unique_ids() -> None:
    drawn = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in drawn}) == len(drawn)
    taken: set[tuple[int, int]] = set()
    for panel in drawn:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(x + place["x"], y + place["y"]) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        taken |= cells


def test_promtool_accepts_the_rules_and_alerts_fire_only_when_they_should() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    folder = DEPLOY / "prometheus"
    for arguments in (("check", "config", "prometheus.yml"), ("test", "rules", "rules_test.yml")):
        ran = subprocess.run([promtool, *arguments], cwd=folder, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran.stdout + ran.stderr
