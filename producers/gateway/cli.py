"""The commands `gateway` and `key`. Only serving imports Starlette and uvicorn."""

import argparse
import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path

from tailrace.command_line import CommandParser
from tailrace.producers.gateway.access.api_keys import HEADER, ApiKey, new_key, parse_keys, parse_until
from tailrace.schemas.errors import SettingsError
from tailrace.telemetry.logging import fields, log_to

_logger = logging.getLogger("tailrace.gateway")

WEB_MISSING = "the extra `web` is not installed: pip install 'tailrace[web]'"


def gateway(argv: Sequence[str]) -> int:
    """`tailrace gateway`: serves HTTP until SIGTERM or Ctrl-C."""
    parser = CommandParser(
        "gateway",
        description="Serve submit, status, cancel and event streams over HTTP (docs/gateway.md).\n"
        "On SIGTERM, open streams end with a hint to reconnect, and readers resume at another gateway.",
        example="TAILRACE_GATEWAY_KEYS_FILE=keys tailrace gateway --host 0.0.0.0 --port 8000",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=_port, default=8000, help="port to listen on (8000; 0 chooses a free port)")
    parser.add_argument(
        "--metrics-port",
        type=_port,
        metavar="PORT",
        help="serve /metrics on this port of TAILRACE_METRICS_HOST (TAILRACE_METRICS_PORT; off without it)",
    )
    parser.add_argument("--open", action="store_true", help="require no API key; on a loopback address only")
    parser.add_argument("--page", action="store_true", help="serve the page to watch at / (always on with --open)")
    given = parser.parse_args(argv)
    if given.open and not _is_loopback(given.host):
        parser.error("--open requires no API key, so it works only on a loopback address such as 127.0.0.1")
    _require_web()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(given.host, given.port, given.metrics_port, is_open=given.open, has_page=given.page))


def key(argv: Sequence[str]) -> int:
    """`tailrace key`: makes, lists and removes API keys."""
    parser = CommandParser(
        "key",
        description="Make, list and remove API keys for web tiers. A new key is printed once, on stdout; the file\n"
        "stores only its SHA-256. Running gateways see a change of the file within a second.",
        example="tailrace key new --tenant acme --file keys\ntailrace key list --file keys\n"
        "tailrace key drop 4f1d2c3b5a69 --file keys",
    )
    parser.add_argument("action", choices=("new", "list", "drop"), help="what to do")
    parser.add_argument("id", nargs="?", help="for drop: the middle part of trk_<id>_<secret>")
    parser.add_argument("--tenant", help="for new: the tenant whose requests the key submits and reads")
    parser.add_argument(
        "--until", type=_until, metavar="TIME", help="for new: when the key expires, such as 2030-01-31"
    )
    parser.add_argument(
        "--file",
        metavar="FILE",
        default=os.environ.get("TAILRACE_GATEWAY_KEYS_FILE"),
        help="the file of keys (TAILRACE_GATEWAY_KEYS_FILE)",
    )
    given = parser.parse_args(argv)
    if not given.file:
        parser.error("give --file FILE, or set TAILRACE_GATEWAY_KEYS_FILE")
    if (given.action == "new") != (given.tenant is not None) or (given.action == "drop") != (given.id is not None):
        parser.error("use: new --tenant NAME, list, or drop ID")
    path = Path(given.file)
    match given.action:
        case "new":
            print(_add_key(path, given.tenant, given.until))
        case "list":
            for kept in _read_keys(path):
                print(f"{kept.id}  {kept.tenant}  {kept.until.isoformat() if kept.until else 'does not expire'}")
        case _:
            _drop_key(path, given.id)
    return 0


def _add_key(path: Path, tenant: str, until: datetime | None) -> str:
    try:
        key, record = new_key(tenant, until)
    except ValueError as error:
        raise SettingsError(f"--tenant: {error}") from error
    _write_keys(path, [*(_read_keys(path) if path.exists() else []), record])
    return key


def _drop_key(path: Path, key_id: str) -> None:
    keys = _read_keys(path)
    left = [kept for kept in keys if kept.id != key_id]
    if len(left) == len(keys):
        raise SettingsError(f"{path} has no key with the id {key_id[:40]!r}")
    _write_keys(path, left)


def _read_keys(path: Path) -> list[ApiKey]:
    try:
        return parse_keys(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}"
        ) from error


def _write_keys(path: Path, keys: list[ApiKey]) -> None:
    """Replaces the file in one step, so that no reader sees half of it."""
    text = HEADER + "".join(f"{kept.line}\n" for kept in keys)
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            file.write(text)
        if path.exists():
            os.chmod(file.name, path.stat().st_mode & 0o777)
        os.replace(file.name, path)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from error


def _require_web() -> None:
    if any(find_spec(name) is None for name in ("starlette", "uvicorn")):
        raise SettingsError(WEB_MISSING)


async def _serve(host: str, port: int, metrics_port: int | None, *, is_open: bool, has_page: bool) -> int:
    from tailrace.producers.client import Client
    from tailrace.producers.gateway.app import Gateway
    from tailrace.producers.gateway.server import listen, serve
    from tailrace.schemas.settings import Settings

    settings = Settings.from_environment(os.environ)
    if has_page:
        settings = settings.model_copy(update={"gateway_page": True})
    log_to(sys.stderr, settings.log_format, settings.log_level)
    metrics_port = settings.metrics_port if metrics_port is None else metrics_port
    client = Client.from_settings(settings)
    await client.ping()  # so that a wrong setting is reported at the start
    app = Gateway(settings, lambda: client, is_open=is_open)
    with listen(host, port) as listener, ExitStack() as sockets:
        metrics = None
        if metrics_port is not None:
            metrics = sockets.enter_context(listen(settings.metrics_host, metrics_port))
            url = f"http://{_in_url(settings.metrics_host)}:{metrics.getsockname()[1]}/metrics"
            _logger.info("metrics at %s", url, extra=fields("metrics_served", url=url))
        print(f"tailrace gateway listens on http://{_in_url(host)}:{listener.getsockname()[1]}", flush=True)
        await serve(app, listener, metrics)
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        from uvloop import new_event_loop
    except ImportError:  # not available on Windows
        return None
    return new_event_loop


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return int(text)


def _until(text: str) -> datetime:
    try:
        return parse_until(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; for example: 2030-01-31") from error
