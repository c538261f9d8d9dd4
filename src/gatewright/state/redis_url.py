"""Where Redis is: the URLs of a single server, of one behind Sentinels, of a Cluster, each with TLS or without.

It owns the forms and makes redis-py's clients from them. The configuration's check calls `parse_redis_url`, `redis`
the rest. No message here holds the password.

    redis://[user:password@]host[:6379][/db]                      rediss:// is TLS, unix:///path a socket
    redis+sentinel://[...@]host[:26379],host/master[/db]          the master that the Sentinels name
    redis+cluster://[...@]host[:6379],host                        rediss+sentinel, rediss+cluster: TLS
    ?ssl_ca_certs=ca.crt&ssl_certfile=...&ssl_keyfile=...&ssl_check_hostname=false&sentinel_password=...
"""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

_KINDS = {"": "single", "sentinel": "sentinel", "cluster": "cluster"}
_PORTS = {"single": 6379, "cluster": 6379, "sentinel": 26379}
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
_HINT = 'write "redis://host:6379/0", "rediss://..." for TLS, "redis+sentinel://host,host/master" or "redis+cluster://host,host"'


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A parsed URL."""

    kind: str  # single, unix, sentinel, cluster
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""  # of a Unix socket
    master: str = ""
    db: int = 0
    tls: bool = False
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)
    tls_options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        where = self.path or ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"{where} ({self.kind}{', TLS' if self.tls else ''})"


def parse_redis_url(url: str) -> RedisAddress:
    """Return what `url` says. Raises ValueError that tells what is wrong, without quoting it."""
    scheme, colon, _ = url.partition("://")
    base, _, suffix = scheme.lower().partition("+")
    if not colon or base not in ("redis", "rediss", "unix") or suffix not in _KINDS or (base == "unix" and suffix):
        raise ValueError(f"is no Redis URL: {_HINT}")
    parts = urlsplit("redis" + url[len(scheme) :])
    credentials, _, places = parts.netloc.rpartition("@")
    name, _, secret = credentials.partition(":")
    options = _options(parts.query, base == "rediss", suffix)
    sentinel_password = options.pop("sentinel_password", None)
    common: dict[str, Any] = {
        "username": unquote(name) or None,
        "password": unquote(secret) or None,
        "tls": base == "rediss",
        "tls_options": tuple(options.items()),
    }
    if base == "unix":
        return RedisAddress("unix", path=unquote(parts.path), **common)
    kind = _KINDS[suffix]
    hosts = tuple(_place(place, _PORTS[kind]) for place in places.split(","))
    if kind == "single" and len(hosts) > 1:
        raise ValueError(f"names several hosts: {_HINT}")
    segments = [unquote(segment) for segment in parts.path.strip("/").split("/")] if parts.path.strip("/") else []
    master = ""
    if kind == "sentinel":
        if not segments:
            raise ValueError("must name the master after the Sentinels' addresses: redis+sentinel://host,host/master")
        master = segments.pop(0)
    if len(segments) > 1 or (segments and (kind == "cluster" or not segments[0].isdecimal())):
        raise ValueError("has a path that is no database number" if kind != "cluster" else "a Cluster has no databases")
    db = int(segments[0]) if segments else 0
    return RedisAddress(kind, hosts, master=master, db=db, sentinel_password=sentinel_password, **common)


def _options(query: str, tls: bool, suffix: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "sentinel_password" and suffix == "sentinel":
            options[name] = value
        elif name not in _TLS_OPTIONS or not tls:
            known = ", ".join(_TLS_OPTIONS)
            raise ValueError(f"has an option that is not known here: {name!r} (with TLS: {known})")
        else:
            options[name] = value.lower() not in ("false", "0", "no") if name == "ssl_check_hostname" else value
    return options


def _place(text: str, port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        if not parts.hostname:
            raise ValueError
        return parts.hostname, parts.port or port
    except ValueError:
        raise ValueError(f"has a host that is none: {_HINT}") from None


def connect(address: RedisAddress, timeout: float, connections: int) -> Any:
    """Return a redis-py client that connects when it is first used; `timeout` in seconds for each step.

    It never tries anything twice: a decision that was late is over, and the store knows when to come back.
    """
    options: dict[str, Any] = {
        "username": address.username,
        "password": address.password,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    if address.tls:
        options |= {"ssl": True, **dict(address.tls_options)}
    if address.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        return RedisCluster(startup_nodes=nodes, max_connections=connections, **options)
    options |= {"db": address.db, "max_connections": connections}
    if address.kind == "unix":
        return Redis(unix_socket_path=address.path, **options)
    if address.kind == "single":
        return Redis(host=address.hosts[0][0], port=address.hosts[0][1], **options)
    watchers = {key: value for key, value in options.items() if key not in ("username", "password", "db")}
    watchers["password"] = address.sentinel_password
    sentinel: Any = Sentinel(list(address.hosts), sentinel_kwargs=watchers, **options)  # type: ignore[no-untyped-call]
    return sentinel.master_for(address.master)


async def disconnect(client: Any) -> None:
    """Close all connections of what `connect` gave. Raises what redis-py raises."""
    pool: Any = getattr(client, "connection_pool", None)
    manager = getattr(pool, "sentinel_manager", None)
    await client.aclose()
    if manager is not None:  # its pool and its Sentinels are ours to close
        await pool.aclose()
        for sentinel in manager.sentinels:
            await sentinel.aclose()
