"""The kit's real servers: each starts, answers what it is asked, stops, and leaves no process and no folder."""

import os
import socket
import struct
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kit import server_process
from tests.kit.server_process import Server, ServerEnded, fetch
from tests.kit.servers import (
    Redis,
    consul_agent,
    jaeger,
    nginx,
    prometheus,
    redis_cluster,
    redis_sentinel,
    redis_server,
)
from tests.kit.wire import Target, answer_all, get


def group(pid: int) -> list[int]:
    """Return the living processes of the process group that `pid` leads."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,pgid=,stat="], capture_output=True, text=True, check=True)
    rows = [line.split() for line in listed.stdout.splitlines()]
    return [int(row[0]) for row in rows if int(row[1]) == pid and row[2][0] != "Z"]


def end(server: Server, stack: ExitStack) -> None:
    """End a server that runs, and check that all it has started goes with it, and its folder."""
    pid, folder = server.pid, server.folder
    assert pid in group(pid)
    stack.close()
    assert group(pid) == []
    assert not folder.exists()


def test_redis(stack) -> None:
    server = stack.enter_context(redis_server(appendonly=True, appendfsync="always"))
    assert server.ask("SET", "key", "value") == "OK"
    port, pid = server.port, server.pid
    server.kill()
    with pytest.raises(OSError):
        server.ask("PING")
    server.start()
    assert (server.port, server.ask("GET", "key")) == (port, "value")
    assert server.pid != pid
    server.pause()
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"PING\r\n")
        server.resume()
        assert connection.recv(100) == b"+PONG\r\n"
    end(server, stack)


def test_redis_forgets_without_persistence_and_wants_its_password() -> None:
    with redis_server(requirepass="a-password") as server:
        assert server.url == f"redis://:a-password@127.0.0.1:{server.port}"
        server.ask("SET", "key", "value")
        server.restart()
        assert server.ask("GET", "key") is None
        server.password = ""
        with pytest.raises(ValueError, match="NOAUTH"):
            server.ask("GET", "key")


def test_redis_with_tls(tmp_path: Path) -> None:
    import trustme

    certificate = trustme.CA().issue_cert("127.0.0.1")
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    certificate.private_key_pem.write_to_path(str(key))
    certificate.cert_chain_pems[0].write_to_path(str(chain))
    with redis_server(tls_cert_file=chain, tls_key_file=key, tls_ca_cert_file=chain) as server:
        assert server.url.startswith("rediss://")
        assert server.ask("ECHO", "hello") == "hello"


def test_a_redis_cluster_has_all_slots() -> None:
    with redis_cluster() as nodes:
        assert len({node.ask("CLUSTER", "MYID") for node in nodes}) == 3
        assert nodes[2].ask("SET", "key", "value") == "OK"  # slot 12539
        with pytest.raises(ValueError, match=f"MOVED 12539 127.0.0.1:{nodes[2].port}"):
            nodes[0].ask("GET", "key")


def test_a_sentinel_knows_its_primary_and_replaces_it() -> None:
    with (
        redis_server() as primary,
        redis_server(replicaof=f"127.0.0.1 {primary.port}") as replica,
        redis_sentinel(primary) as sentinel,
    ):
        assert where(sentinel) == primary.port
        sentinel.until(lambda: str(replica.port) in str(sentinel.ask("SENTINEL", "REPLICAS", "main")), "told")
        primary.kill()
        sentinel.until(lambda: where(sentinel) == replica.port, "done with the failover")


def where(sentinel: Redis) -> int:
    return int(sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")[1])


def test_consul(stack) -> None:
    server = stack.enter_context(consul_agent())
    service = {"Name": "web", "ID": "web-1", "Port": 8001}
    fetch(f"{server.url}/v1/agent/service/register", service, "PUT")
    assert [row["ServiceID"] for row in fetch(f"{server.url}/v1/catalog/service/web")] == ["web-1"]
    assert a_record(server.dns_port, "web.service.consul") == "127.0.0.1"
    server.kill()
    server.start()
    rows = server.until(lambda: fetch(f"{server.url}/v1/health/service/web"), "asked for web again")
    assert rows[0]["Service"]["Port"] == 8001
    end(server, stack)


def a_record(port: int, name: str) -> str:
    """Return the first address that a DNS server has for a name."""
    question = (
        b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0" + struct.pack("!HH", 1, 1)
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.sendto(struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + question, ("127.0.0.1", port))
        answer = sock.recv(512)
    number, _flags, _questions, answers = struct.unpack_from("!4H", answer)
    assert (number, answers) == (7, 1)
    return socket.inet_ntoa(answer[12 + len(question) + 12 :][:4])


def test_jaeger(stack) -> None:
    server = stack.enter_context(jaeger())
    now = time.time_ns()
    span = {
        "traceId": "5b8efff798038103d269b633813fc60c",
        "spanId": "eee19b7ec3c1b174",
        "name": "GET /",
        "kind": 2,
        "startTimeUnixNano": str(now),
        "endTimeUnixNano": str(now + 1_000_000),
    }
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "kit"}}]}
    fetch(f"{server.url}/v1/traces", {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [span]}]}]})
    assert [found["operationName"] for found in server.trace(span["traceId"])] == ["GET /"]
    assert fetch(f"{server.query_url}/api/services")["data"] == ["kit"]
    end(server, stack)


METRICS = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nanswer_is 42\n"


def test_prometheus(stack, target) -> None:
    metrics: Target = target(answer_all(METRICS))
    server = stack.enter_context(prometheus(f"127.0.0.1:{metrics.port}", token="a-token-of-16-letters"))
    (sample,) = server.samples("answer_is")
    assert sample["value"][1] == "42"
    assert b"GET /metrics " in metrics.received
    assert b"Authorization: Bearer a-token-of-16-letters\r\n" in metrics.received
    end(server, stack)


def test_nginx(stack) -> None:
    server = stack.enter_context(nginx('server { listen 127.0.0.1:@PORT@; return 200 "nginx here"; }'))
    assert get(server.port, "/").body == b"nginx here"
    pid = server.pid
    assert len(group(pid)) == 2
    server.kill()
    assert group(pid) == []
    server.start()
    assert fetch(server.url) == "nginx here"
    end(server, stack)


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(ServerEnded, match="no_such_word"), nginx("no_such_word;"):
        pass


def test_a_port_that_somebody_took_meanwhile_is_given_up(monkeypatch) -> None:
    with redis_server() as first:
        offers = [[first.port, first.port], server_process.free_ports(2)]
        monkeypatch.setattr(server_process, "free_ports", lambda count: offers.pop(0))
        with redis_server(appendonly=True) as second:
            assert second.port != first.port
            assert second.ask("CONFIG", "GET", "appendonly") == ["appendonly", "yes"]


def test_a_missing_program_skips_here_and_fails_where_all_must_be(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(server_process.shutil, "which", lambda name, path: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="consul is not installed: run `make servers`"):
        server_process.program("consul")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="make servers"):
        server_process.program("consul")


def test_a_program_that_was_built_comes_first(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    built = tmp_path / "gatewright" / "servers" / "bin" / "consul"
    built.parent.mkdir(parents=True)
    built.write_text("")
    built.chmod(0o755)
    assert server_process.program("consul") == str(built)
    assert os.access(built, os.X_OK)
