"""What the URL of a Redis says: one server, or the Sentinels that know which server is the primary.

Knows forms. Opens nothing.
"""

import re
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

SENTINEL_PORT = 26379
_SERVER = ("redis", "rediss", "unix")
_SENTINEL = ("redis+sentinel", "rediss+sentinel")
_PASSWORD = "in a password, write / as %2F and @ as %40"  # noqa: S105 - a hint, and no password
_NODE = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:/]+)(?::([0-9]{1,5}))?")


class RedisUrl(NamedTuple):
    """A URL, read.

    Attributes:
        plain: what a client for one server takes: of the server, or of the first Sentinel, with user, password,
            database and options.
        place: where it points to, without user, password and options: fit for messages.
        sentinels: host and port of each; empty for one server.
        service: what Sentinels call the primary.
    """

    plain: str
    place: str
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""


def parse_redis_url(url: str) -> RedisUrl:
    """Reads `redis://[[user]:password@]host[:port][/database][?options]`, `rediss://` (TLS), `unix://path`,
    `redis+sentinel://[[user]:password@]host[:port][,host[:port]...]/service[/database][?options]`, `rediss+sentinel://`.

    Raises:
        ValueError: it is none of these. The message repeats nothing of the URL, since any part may turn out to be the
            password.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("cannot be read: is a bracket or a character of its host wrong?") from None
    if parts.scheme in _SENTINEL:
        return _of_sentinels(url)
    if parts.scheme not in _SERVER:
        raise ValueError("must begin with redis://, rediss://, unix://, redis+sentinel:// or rediss+sentinel://")
    if parts.scheme == "unix":
        if not parts.path:
            raise ValueError("needs the path of the socket, such as unix:///run/redis.sock")
        return RedisUrl(url, parts.path)
    try:
        port_is_usable = parts.port != 0
    except ValueError:
        port_is_usable = False
    if not port_is_usable:
        raise ValueError(f"the port must be a number from 1 to 65535 ({_PASSWORD})")
    if re.fullmatch(r"/?[0-9]*", parts.path) is None:
        raise ValueError(f"the database must be a number, such as /0 ({_PASSWORD})")
    return RedisUrl(_checking_names(url), f"{parts.hostname or 'localhost'}:{parts.port or 6379}")


def _of_sentinels(url: str) -> RedisUrl:
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    nodes: list[tuple[str, int]] = []
    for host in hosts.split(","):
        read = _NODE.fullmatch(host)
        if read is None or not 0 < int(read[2] or SENTINEL_PORT) < 65_536:
            raise ValueError(f"needs Sentinels as host:port, separated by commas ({_PASSWORD})")
        nodes.append((read[1].strip("[]"), int(read[2] or SENTINEL_PORT)))
    path = re.fullmatch(r"/([A-Za-z0-9._-]+)(/[0-9]*)?", parts.path)
    if path is None:
        raise ValueError("needs what its Sentinels call the primary, and a database, such as /mymaster/0")
    query = f"?{parts.query}" if parts.query else ""
    first = hosts.split(",")[0]
    plain = f"{parts.scheme.partition('+')[0]}://{user}{at}{first}{path[2] or ''}{query}"
    place = f"{path[1]} of {', '.join(f'{host}:{port}' for host, port in nodes)}"
    return RedisUrl(_checking_names(plain), place, tuple(nodes), path[1])


def _checking_names(url: str) -> str:
    """Where a certificate is checked, its name is checked, too, unless the URL says otherwise: redis-py would not."""
    parts = urlsplit(url)
    options = parse_qs(parts.query)
    if parts.scheme != "rediss" or "ssl_check_hostname" in options or options.get("ssl_cert_reqs") == ["none"]:
        return url
    return parts._replace(query=f"{parts.query}&ssl_check_hostname=yes".lstrip("&")).geturl()
