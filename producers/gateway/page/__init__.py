"""The page to watch: one document, made of the files beside this one, and the headers it goes out with.

`view.js` what a card shows, of entries alone · `blocks.js` long texts in blocks · `feed.js` the event stream ·
`card.js` one request on the page · `scenarios.js` what can be picked · `page.js` the page · `index.html` · `style.css`
"""

import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from typing import NamedTuple

SCRIPTS = ("view.js", "blocks.js", "feed.js", "card.js", "scenarios.js", "page.js")
"""In the order in which they need each other. Each is a module, for Node; on the page they are one script."""

_STYLE = '<link rel="stylesheet" href="style.css">'
_SCRIPT = '<script type="module" src="page.js"></script>'
_ACCESS = "{access}"
_IMPORT = re.compile(r"^import .*\n", re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)


class Page(NamedTuple):
    """A document and the headers it needs."""

    body: bytes
    headers: Mapping[str, str]


def page(*, is_open: bool) -> Page:
    """The page.

    Nothing runs on it but its own script, by its hash: no other script, no markup made of text (Trusted Types), nothing
    from elsewhere, no frame around it. Source: Content Security Policy Level 3.

    Args:
        is_open: the gateway asks nobody for a key, so neither does the page.
    """
    script = "".join(_EXPORT.sub("", _IMPORT.sub("", _read(name))) for name in SCRIPTS)
    style = _read("style.css")
    html = _put(_read("index.html"), _ACCESS, "open" if is_open else "keys")
    html = _put(html, _STYLE, f"<style>{style}</style>")
    html = _put(html, _SCRIPT, f'<script type="module">{script}</script>')
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


def _put(html: str, place: str, text: str) -> str:
    before, found, after = html.partition(place)
    assert found, place  # noqa: S101 - a test reads every page
    return before + text + after


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
