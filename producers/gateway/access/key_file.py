"""The file of API keys, reloaded when it changes. Knows nothing of callers."""

import logging
import os
import time

from tailrace.producers.gateway.access.api_keys import KeyRing, parse_keys
from tailrace.schemas.errors import SettingsError
from tailrace.telemetry.logging import fields

_logger = logging.getLogger("tailrace.gateway")

_CHECK_EVERY_S = 1.0


class KeyFile:
    """The API keys of a file. Keys can be added and removed without a restart: the file is checked once a second.

    Args:
        path: the path of the file.

    Raises:
        SettingsError: the file cannot be read, or contains no key.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._version: tuple[int, int, int] | None = None
        self._check_at_s = 0.0
        self._ring = KeyRing([])
        self._reload()
        if not len(self._ring):
            raise SettingsError(f"{path} contains no API key; make one: tailrace key new --tenant NAME --file {path}")

    def current(self) -> KeyRing:
        """The current keys. When the file becomes unreadable, the keys read before stay valid."""
        if time.monotonic() >= self._check_at_s:
            try:
                self._reload()
            except SettingsError as error:
                _logger.error(
                    "cannot read the API keys again (%s); those read before stay valid",
                    error,
                    extra=fields("api_keys_not_reloaded", why=error),
                )
        return self._ring

    def _reload(self) -> None:
        self._check_at_s = time.monotonic() + _CHECK_EVERY_S
        try:
            stat = os.stat(self._path)
            version = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if version == self._version:
                return
            with open(self._path, encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise SettingsError(f"TAILRACE_GATEWAY_KEYS_FILE: {self._path} cannot be read: {reason}") from error
        self._version = version
        self._ring = KeyRing(parse_keys(text))
