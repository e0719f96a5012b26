"""Reads the URL of a Redis: one server, the Sentinels that name a primary, or nodes of a cluster. Opens nothing."""

import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

REDIS_PORT = 6379
SENTINEL_PORT = 26379
_SERVER = ("redis", "rediss", "unix")
_SENTINEL = ("redis+sentinel", "rediss+sentinel")
_CLUSTER = ("redis+cluster", "rediss+cluster")
_FORMS = ", ".join(f"{scheme}://" for scheme in (*_SERVER, *_SENTINEL, *_CLUSTER))
_PASSWORD = "in a password, write / as %2F and @ as %40"  # noqa: S105 - a hint, not a password
_NODE = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:/]+)(?::([0-9]{1,5}))?")

OF_A_CLUSTER = (
    "it is a node of a Redis Cluster: name a single server, or, for logs, the cluster as redis+cluster:// "
    "(docs/redis-topologies.md)"
)

QUEUE_OF_A_CLUSTER = (
    "a Redis Cluster holds logs, not the queue: name another server for the queue in TAILRACE_QUEUE_URL or queue_url "
    "(docs/redis-topologies.md)"
)

Node = tuple[str, int]
"""Host and port."""


class RedisUrl(NamedTuple):
    """A URL in its parts.

    Attributes:
        plain: the URL of the server, or of the first one if there are several, with user, password, database and
            options.
        place: the server or servers, without user, password and options: safe in messages.
        sentinels: host and port of each; empty for one server.
        service: the Sentinels' name for the primary.
        nodes: some nodes of a Redis Cluster; empty for anything else.
    """

    plain: str
    place: str
    sentinels: tuple[Node, ...] = ()
    service: str = ""
    nodes: tuple[Node, ...] = ()


def parse_redis_url(url: str) -> RedisUrl:
    """Reads `redis://[[user]:password@]host[:port][/database][?options]`, `rediss://` (TLS), `unix://path`,
    `redis+sentinel://[[user]:password@]host[:port][,host[:port]...]/service[/database][?options]`, `rediss+sentinel://`,
    `redis+cluster://[[user]:password@]host[:port][,host[:port]...][?options]`, `rediss+cluster://`.

    Raises:
        ValueError: it is none of these. The message repeats nothing of the URL, since any part may be the password.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("cannot be read: is a bracket or a character of its host wrong?") from None
    if parts.scheme in _SENTINEL:
        return _of_sentinels(url)
    if parts.scheme in _CLUSTER:
        return _of_cluster(url)
    if parts.scheme not in _SERVER:
        raise ValueError(f"must begin with one of {_FORMS}")
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
    return RedisUrl(_checking_names(url), f"{parts.hostname or 'localhost'}:{parts.port or REDIS_PORT}")


def _of_sentinels(url: str) -> RedisUrl:
    parts = urlsplit(url)
    nodes = _nodes(parts.netloc, SENTINEL_PORT, "Sentinels")
    path = re.fullmatch(r"/([A-Za-z0-9._-]+)(/[0-9]*)?", parts.path)
    if path is None:
        raise ValueError("needs the Sentinels' name for the primary, and a database, such as /mymaster/0")
    place = f"{path[1]} of {named(nodes)}"
    return RedisUrl(_plain(url, path[2] or ""), place, nodes, path[1])


def _of_cluster(url: str) -> RedisUrl:
    parts = urlsplit(url)
    nodes = _nodes(parts.netloc, REDIS_PORT, "nodes of the cluster")
    if parts.path not in ("", "/", "/0"):
        raise ValueError("a cluster has only database 0: leave it out")
    return RedisUrl(_plain(url, ""), f"the cluster of {named(nodes)}", nodes=nodes)


def _nodes(netloc: str, port: int, called: str) -> tuple[Node, ...]:
    nodes: list[Node] = []
    for host in netloc.rpartition("@")[2].split(","):
        read = _NODE.fullmatch(host)
        if read is None or not 0 < int(read[2] or port) < 65_536:
            raise ValueError(f"needs {called} as host:port, separated by commas ({_PASSWORD})")
        nodes.append((read[1].strip("[]"), int(read[2] or port)))
    return tuple(nodes)


def _plain(url: str, path: str) -> str:
    """The URL of the first server that is named."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    first = f"{user}{at}{hosts.split(',')[0]}"
    return _checking_names(parts._replace(scheme=parts.scheme.partition("+")[0], netloc=first, path=path).geturl())


def named(nodes: Sequence[Node]) -> str:
    """The servers as text for messages."""
    return ", ".join(f"{host}:{port}" for host, port in nodes)


def _checking_names(url: str) -> str:
    """Also checks the host name in a certificate that is checked: redis-py does not do so by default."""
    parts = urlsplit(url)
    options = parse_qs(parts.query)
    if parts.scheme != "rediss" or "ssl_check_hostname" in options or options.get("ssl_cert_reqs") == ["none"]:
        return url
    return parts._replace(query=f"{parts.query}&ssl_check_hostname=yes".lstrip("&")).geturl()
