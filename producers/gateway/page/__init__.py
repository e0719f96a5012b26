"""The page to watch: one HTML document, assembled from the files in this folder, and its response headers.

`view.js` what a card shows, computed from entries · `blocks.js` splits long texts · `feed.js` the event stream ·
`card.js` one request on the page · `scenarios.js` simulated answers · `page.js` the page · `index.html` · `style.css`
"""

import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from typing import NamedTuple

SCRIPTS = ("view.js", "blocks.js", "feed.js", "card.js", "scenarios.js", "page.js")
"""In order of their imports. Each is a module for Node's tests; the page contains them as one script."""

_STYLE = '<link rel="stylesheet" href="style.css">'
_SCRIPT = '<script type="module" src="page.js"></script>'
_ACCESS = "{access}"
_IMPORT = re.compile(r"^import .*\n", re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)


class Page(NamedTuple):
    """The document and its response headers."""

    body: bytes
    headers: Mapping[str, str]


def page(*, is_open: bool) -> Page:
    """Assembles the page.

    The Content Security Policy (Level 3) allows only the page's own script, by its hash: no other script, no HTML made
    from text (Trusted Types), nothing loaded from other hosts, no framing.

    Args:
        is_open: the gateway needs no API key, so the page does not ask for one.
    """
    script = "".join(_EXPORT.sub("", _IMPORT.sub("", _read(name))) for name in SCRIPTS)
    style = _read("style.css")
    html = _insert(_read("index.html"), _ACCESS, "open" if is_open else "keys")
    html = _insert(html, _STYLE, f"<style>{style}</style>")
    html = _insert(html, _SCRIPT, f'<script type="module">{script}</script>')
    policy = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return Page(
        html.encode(),
        {
            "content-security-policy": "; ".join(f"{name} {allowed}" for name, allowed in policy.items()),
            "cache-control": "no-store",
            "cross-origin-opener-policy": "same-origin",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
        },
    )


def _read(name: str) -> str:
    return files(__name__).joinpath(name).read_text("utf-8")


def _insert(html: str, place: str, text: str) -> str:
    before, found, after = html.partition(place)
    assert found, place  # noqa: S101 - a test assembles both pages
    return before + text + after


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
