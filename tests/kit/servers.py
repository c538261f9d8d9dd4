"""The real servers: Redis, Consul, Jaeger, Prometheus, nginx; each a context manager that gives one that answers.

`make servers` installs their programs; where one is missing a test is skipped, unless CI is set: then it fails.
What is given can be stopped, killed, paused and started again (`tests.kit.server_process`). Knows nothing of the
gateway.
"""

import json
import os
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.kit.server_process import Server, fetch, program, running

HOST = "127.0.0.1"


class Redis(Server):
    """A Redis; `options` are lines of its configuration. Its second port is for the other nodes of a cluster."""

    name = "redis-server"

    def __init__(self, options: dict[str, Any], folder: Path, ports: Sequence[int]) -> None:
        super().__init__(folder, ports)
        self.tls = "tls-cert-file" in options
        self.password = str(options.get("requirepass", ""))
        defaults = {"bind": HOST, "dir": folder, "save": '""', "port": 0 if self.tls else self.port}
        if self.tls:
            defaults |= {"tls-port": self.port, "tls-auth-clients": "no"}
        if options.get("cluster-enabled"):
            defaults["cluster-port"] = ports[1]
        self.options = defaults | options
        self._file = folder / "redis.conf"

    def command(self) -> list[str]:
        if not self._file.exists():  # a Sentinel writes what it has learnt into it
            lines = [f"{name} {_yes_or_no(value)}\n" for name, value in self.options.items()]
            self._file.write_text("".join(lines))
        return [program(self.name), str(self._file)]

    def is_ready(self) -> bool:
        return bool(self.ask("PING") == "PONG")

    @property
    def url(self) -> str:
        password = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"{'rediss' if self.tls else 'redis'}://{password}{HOST}:{self.port}"

    def ask(self, *words: object) -> Any:
        """Send one command on a connection of its own; return the answer. Raises OSError, ValueError for an error."""
        with ExitStack() as stack:
            sock = stack.enter_context(socket.create_connection((HOST, self.port), timeout=5))
            if self.tls:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                sock = stack.enter_context(context.wrap_socket(sock))
            stream = stack.enter_context(sock.makefile("rwb"))
            if self.password:
                stream.write(_command("AUTH", self.password))
            stream.write(_command(*words))
            stream.flush()
            if self.password:
                _answer(stream)
            return _answer(stream)


class Sentinel(Redis):
    """A Redis Sentinel."""

    def command(self) -> list[str]:
        return [*super().command(), "--sentinel"]


def _yes_or_no(value: Any) -> Any:
    return ("no", "yes")[value] if isinstance(value, bool) else value


def _command(*words: object) -> bytes:
    parts = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def _answer(stream: Any) -> Any:
    """Read one answer of the RESP2 protocol."""
    line = stream.readline().rstrip(b"\r\n")
    kind, text = line[:1], line[1:].decode()
    if kind == b"+":
        return text
    if kind == b":":
        return int(text)
    if kind == b"$":
        return None if text == "-1" else stream.read(int(text) + 2)[:-2].decode(errors="replace")
    if kind == b"*":
        return None if text == "-1" else [_answer(stream) for _ in range(int(text))]
    raise ValueError(text or "the connection was closed")


def redis_server(**options: Any) -> AbstractContextManager[Redis]:
    """Run a Redis. `options` are those of its configuration (`appendonly=True`); with `tls_cert_file` it speaks TLS.

    Without a persistence of your choice, what it holds is gone with a restart.
    """
    names = {name.replace("_", "-"): value for name, value in options.items()}
    return running(partial(Redis, names), 2)


def redis_sentinel(primary: Redis, name: str = "main") -> AbstractContextManager[Sentinel]:
    """Run a Sentinel that watches `primary` as `name`, and that alone decides to replace it, half a second later."""
    options = {
        "sentinel monitor": f"{name} {HOST} {primary.port} 1",
        "sentinel down-after-milliseconds": f"{name} 500",
        "sentinel failover-timeout": f"{name} 2000",
    }
    return running(partial(Sentinel, options), 1)


@contextmanager
def redis_cluster(count: int = 3) -> Iterator[list[Redis]]:
    """Run a Redis Cluster of so many nodes, without replicas."""
    with ExitStack() as stack:
        options = {"cluster_enabled": True, "cluster_node_timeout": 1000, "cluster_require_full_coverage": False}
        nodes = [stack.enter_context(redis_server(**options)) for _ in range(count)]
        borders = [16384 * place // count for place in range(count + 1)]
        for place, node in enumerate(nodes):
            node.ask("CLUSTER", "ADDSLOTSRANGE", borders[place], borders[place + 1] - 1)
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", place + 1)
            nodes[0].ask("CLUSTER", "MEET", HOST, node.port, node.ports[1])
        for node in nodes:
            node.until(partial(_knows, node, count), "part of the cluster")
        yield nodes


def _knows(node: Redis, count: int) -> bool:
    info = node.ask("CLUSTER", "INFO")
    return "cluster_slots_ok:16384\r" in info and f"cluster_size:{count}\r" in info


class Consul(Server):
    """A Consul server that is a cluster by itself."""

    name = "consul"

    def __init__(self, options: dict[str, Any], folder: Path, ports: Sequence[int]) -> None:
        super().__init__(folder, ports)
        names = ("http", "dns", "server", "serf_lan", "serf_wan")
        self.options = {
            "server": True,
            "bootstrap_expect": 1,
            "bind_addr": HOST,
            "client_addr": HOST,
            "data_dir": str(folder / "data"),
            "node_name": "test",
            "ports": {**dict(zip(names, ports, strict=True)), "grpc": -1, "grpc_tls": -1, "https": -1},
            "performance": {"raft_multiplier": 1},
            "connect": {"enabled": False},
            "disable_update_check": True,
            "log_level": "warn",
        } | options

    def command(self) -> list[str]:
        file = self.folder / "consul.json"
        file.write_text(json.dumps(self.options))
        return [program(self.name), "agent", f"-config-file={file}"]

    def is_ready(self) -> bool:
        return bool(fetch(f"{self.url}/v1/status/leader"))

    @property
    def dns_port(self) -> int:
        """Where it answers DNS questions, by UDP and TCP."""
        return self.ports[1]


def consul_agent(**options: Any) -> AbstractContextManager[Consul]:
    """Run a Consul agent. `options` are those of its configuration; what it holds stays over a restart."""
    return running(partial(Consul, options), 5)


class Jaeger(Server):
    """A Jaeger that keeps traces in memory: a restart loses them. `port` takes OTLP by HTTP."""

    name = "jaeger"

    def command(self) -> list[str]:
        otlp, query, admin, *others = self.ports
        places = {
            "collector.otlp.http": otlp,
            "query.http-server": query,
            "admin.http": admin,
            "collector.otlp.grpc": others[0],
            "collector.grpc-server": others[1],
            "collector.http-server": others[2],
            "query.grpc-server": others[3],
        }
        return [
            program(self.name),
            "--collector.otlp.enabled=true",
            "--log-level=warn",
            *(f"--{name}.host-port={HOST}:{port}" for name, port in places.items()),
        ]

    def is_ready(self) -> bool:
        fetch(f"http://{HOST}:{self.ports[2]}/")  # 503 until it serves
        return bool(fetch(f"{self.query_url}/api/services"))

    @property
    def query_url(self) -> str:
        """Where traces are asked for."""
        return f"http://{HOST}:{self.ports[1]}"

    def trace(self, trace_id: str) -> Any:
        """Return a trace's spans as Jaeger has them, once it has any."""

        def spans() -> Any:
            try:
                return fetch(f"{self.query_url}/api/traces/{trace_id}")["data"][0]["spans"]
            except OSError:  # 404: not yet
                return None

        return self.until(spans, f"given the trace {trace_id}")


def jaeger() -> AbstractContextManager[Jaeger]:
    """Run Jaeger's all-in-one."""
    return running(Jaeger, 7)


class Prometheus(Server):
    """A Prometheus that asks one target each second."""

    name = "prometheus"

    def __init__(self, target: str, token: str, folder: Path, ports: Sequence[int]) -> None:
        super().__init__(folder, ports)
        self.target = target
        self.token = token

    def command(self) -> list[str]:
        job: dict[str, Any] = {"job_name": "test", "static_configs": [{"targets": [self.target]}]}
        if self.token:
            job["authorization"] = {"credentials": self.token}
        file = self.folder / "prometheus.yml"
        times = {"scrape_interval": "1s", "scrape_timeout": "1s"}
        file.write_text(json.dumps({"global": times, "scrape_configs": [job]}))
        return [
            program(self.name),
            f"--config.file={file}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address={HOST}:{self.port}",
            "--log.level=warn",
        ]

    def is_ready(self) -> bool:
        return bool(fetch(f"{self.url}/-/ready"))

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples that a PromQL expression gives now: each with `metric` and `value`."""
        answer = fetch(f"{self.url}/api/v1/query?query={quote(expression, safe='')}")
        return list(answer["data"]["result"])

    def samples(self, expression: str) -> list[dict[str, Any]]:
        """Return the same, once there are any."""
        return list(self.until(lambda: self.query(expression), f"able to answer {expression}"))


def prometheus(scrape_target: str, token: str = "") -> AbstractContextManager[Prometheus]:
    """Run a Prometheus that scrapes /metrics of `scrape_target` (host:port), with a bearer token if one is given."""
    return running(partial(Prometheus, scrape_target, token), 1)


class Nginx(Server):
    """An nginx."""

    name = "nginx"

    def __init__(self, config: str, folder: Path, ports: Sequence[int]) -> None:
        super().__init__(folder, ports)
        self.config = config

    def command(self) -> list[str]:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        lines = [
            "daemon off;",
            "user root;" if os.geteuid() == 0 else "",  # or its workers cannot read the folder
            "worker_processes 1;",
            f"pid {self.folder}/nginx.pid;",
            "error_log stderr;",
            "events {}",
            "http {",
            "access_log off;",
            *(f"{kind}_temp_path {self.folder}/{kind};" for kind in kinds),
            self.config.replace("@PORT@", str(self.port)),
            "}",
        ]
        file = self.folder / "nginx.conf"
        file.write_text("\n".join(lines))
        return [program(self.name), "-e", "stderr", "-p", str(self.folder), "-c", str(file)]

    def is_ready(self) -> bool:
        with socket.create_connection((HOST, self.port), timeout=5):
            return True


def nginx(config: str) -> AbstractContextManager[Nginx]:
    """Run an nginx. `config` is what stands in its `http` block; @PORT@ in it becomes the port to listen on."""
    return running(partial(Nginx, config), 1)
