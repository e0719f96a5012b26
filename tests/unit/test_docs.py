"""What the documents say about the code, held against the code."""

import re
from pathlib import Path

import pytest

from tailrace.schemas.settings import PREFIX, Settings

_ROOT = Path(__file__).parents[2]
_PAGES = [_ROOT / "README.md", _ROOT / "ARCHITECTURE.md", *sorted((_ROOT / "docs").rglob("*.md"))]


def test_the_table_of_settings_has_every_setting_with_its_default() -> None:
    rows = re.findall(
        r"^\| `(TAILRACE_\w+)` \| `?([^|`]*?)`? \|", (_ROOT / "docs/settings.md").read_text(), re.MULTILINE
    )
    defaults = Settings()
    said = dict(rows)
    assert set(said) == {PREFIX + name.upper() for name in Settings.model_fields}
    # Read as the environment's values are, the table's defaults are the defaults.
    assert Settings.from_environment({name: value for name, value in said.items() if value}) == defaults


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_every_link_between_documents_leads_somewhere(page: Path) -> None:
    linked = [path for path in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()) if "://" not in path]
    assert [path for path in linked if not (page.parent / path).exists()] == []


def test_the_architecture_names_only_files_that_are_there() -> None:
    text = (_ROOT / "ARCHITECTURE.md").read_text()
    known = {path.name for folder in ("schemas", "worker", "producers", "demo") for path in (_ROOT / folder).rglob("*")}
    named = set(re.findall(r"\b([a-z_]+\.(?:py|lua))\b", text))
    assert named
    assert named - known == set()


def test_the_architecture_names_every_module_of_the_three_packages() -> None:
    """But for the gateway's, which stand in its own folder's docstring, and what a `*` stands for."""
    text = (_ROOT / "ARCHITECTURE.md").read_text()
    folders = ("schemas", "worker", "worker/interface", "producers")
    modules = [path for folder in folders for path in (_ROOT / folder).glob("*.py") if path.name != "__init__.py"]
    assert modules
    named = {*re.findall(r"\b([a-z_]+\.py)\b", text)}
    families = tuple(re.findall(r"\b([a-z_]+)\*\.py\b", text))
    assert [path.name for path in modules if path.name not in named and not path.name.startswith(families)] == []
