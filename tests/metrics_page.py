"""Reads a page of metrics with Prometheus' own parser of its format."""

from collections.abc import Iterable
from typing import Any

from prometheus_client import parser as text_format
from prometheus_client.openmetrics import parser as openmetrics

Values = dict[str, dict[tuple[tuple[str, str], ...], float]]
"""By the name of the sample and its labels."""


def values_of(page: str, content_type: str) -> Values:
    """The value of each sample on the page."""
    is_openmetrics = content_type.startswith("application/openmetrics-text;")
    assert is_openmetrics or content_type.startswith("text/plain;"), content_type
    reader: Any = openmetrics if is_openmetrics else text_format
    families: Iterable[Any] = reader.text_string_to_metric_families(page)
    values: Values = {}
    for family in families:
        for sample in family.samples:
            values.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return values
