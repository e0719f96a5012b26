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


def test_the_architecture_names_only_files_and_folders_that_are_there() -> None:
    text = (_ROOT / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`([a-z_/]+(?:\.(?:py|lua|md|toml)|/))`", text))
    assert len(named) > 20
    assert [name for name in named if not (_ROOT / name).exists()] == []


def test_the_readme_is_short() -> None:
    text = (_ROOT / "README.md").read_text()
    assert len(text.split()) <= 700
    assert [line for line in text.splitlines() if len(line) > 160] == []
