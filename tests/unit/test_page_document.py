"""The page's document: complete, self-contained, and allowed to run only its own script."""

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest

from tailrace.demo.simulator.library import knows_model
from tailrace.producers.gateway.access.api_keys import new_key
from tailrace.producers.gateway.app import Gateway
from tailrace.producers.gateway.page import SCRIPTS, page
from tailrace.schemas.errors import SettingsError
from tailrace.schemas.settings import Settings

FOLDER = Path(__file__).parents[2] / "producers/gateway/page"


def test_the_document_is_self_contained() -> None:
    html = page(is_open=True).body.decode()
    (script,) = re.findall(r'<script type="module">(.*?)</script>', html, re.DOTALL)
    assert html.count("<style>") == 1
    assert not re.search(r"^(import|export) |<!--", script, re.MULTILINE)
    assert {path.name for path in FOLDER.glob("*.js")} == set(SCRIPTS)
    # the only src or href is the icon, a data: URL
    assert [at[:5] for at in re.findall(r"(?:src|href|action)=\"([^\"]*)", html.replace(script, ""))] == ["data:"]
    assert "url(" not in html


@pytest.mark.parametrize("is_open", [True, False])
def test_the_policy_allows_only_the_pages_own_script_and_style(*, is_open: bool) -> None:
    made = page(is_open=is_open)
    policy = dict(part.split(" ", 1) for part in made.headers["content-security-policy"].split("; "))
    for directive, tag in (("script-src", '<script type="module">'), ("style-src", "<style>")):
        text = made.body.decode().partition(tag)[2].partition("</s")[0]
        assert policy[directive] == f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert "unsafe" not in made.headers["content-security-policy"]
    assert ('data-access="open"' in made.body.decode().partition("<header>")[0]) == is_open


def test_the_scripts_never_parse_text_as_html() -> None:
    text = "".join((FOLDER / name).read_text() for name in SCRIPTS)
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|localStorage|eval\(", text) == []


def test_every_scenario_uses_a_model_of_the_simulator() -> None:
    models = re.findall(r'scenario\("[^"]+", "([^"]+)"', (FOLDER / "scenarios.js").read_text())
    assert len(models) > 8
    assert [model for model in models if not knows_model(model)] == []


def test_a_page_with_keys_needs_tokens(tmp_path: Path) -> None:
    # Without secrets for tokens the page cannot read, so the gateway refuses to start with it.
    _, kept = new_key("acme")
    keys = tmp_path / "keys"
    keys.write_text(kept.line)
    with pytest.raises(SettingsError, match="TAILRACE_TOKEN_SECRETS"):
        Gateway(Settings(gateway_keys_file=str(keys), gateway_page=True))
    routes = Gateway(Settings(gateway_keys_file=str(keys))).routes
    assert "/" not in [route.path for route in routes]
