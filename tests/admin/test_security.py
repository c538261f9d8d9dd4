"""Who gets in: tokens, this machine only, DNS rebinding, pages of other sites, forms, sizes; over a real socket."""

import hmac
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatewright.admin import security
from gatewright.admin.app import make_app
from gatewright.admin.security import Access
from tests.kit.admin import FakeOperations, RunningAdmin, run_admin
from tests.kit.wire import RawSocket

TOKEN = "correct-horse-battery"
TARGET = "/services/shop/targets/10.0.0.1:8001"


@pytest.fixture(scope="module")
def open_admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAdmin]:
    """Without a token."""
    with run_admin(FakeOperations(tmp_path_factory.mktemp("open"))) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAdmin]:
    """With a token."""
    with run_admin(FakeOperations(tmp_path_factory.mktemp("guarded")), TOKEN) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_done(open_admin: RunningAdmin, guarded: RunningAdmin) -> None:
    open_admin.operations.calls.clear()
    guarded.operations.calls.clear()


def reason(answer: Any) -> tuple[int, str]:
    body = json.loads(answer.body)
    assert answer.get("content-type") == "application/problem+json"
    assert body["status"] == answer.status
    assert body["type"] == f"urn:gatewright:reason:{body['reason']}"
    assert body["request_id"] == answer.get("x-request-id")
    return answer.status, body["reason"]


# Tokens


@pytest.mark.parametrize(
    "field",
    [
        f"Bearer {TOKEN}",
        f"bearer {TOKEN}",
        f"Bearer   {TOKEN}",
    ],
)
def test_the_token_opens(guarded: RunningAdmin, field: str) -> None:
    assert guarded.ask("GET", "/status", authorization=field).status == 200


@pytest.mark.parametrize(
    "field",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN.upper()}",
        "Bearer \xe9\xff",
    ],
)
def test_anything_else_does_not(guarded: RunningAdmin, field: str) -> None:
    for method, path in (("GET", "/status"), ("POST", "/reload"), ("GET", "/nowhere"), ("GET", "/docs")):
        answer = guarded.ask(method, path, authorization=field)
        assert reason(answer) == (401, "unauthorized")
        assert (answer.get("www-authenticate") or "").startswith('Bearer realm="gatewright"')
        assert TOKEN.encode() not in answer.body
    assert guarded.operations.calls == []


def test_no_token_and_a_wrong_one_are_told_apart(guarded: RunningAdmin) -> None:
    assert guarded.ask("GET", "/status").get("www-authenticate") == 'Bearer realm="gatewright"'
    wrong = guarded.ask("GET", "/status", authorization="Bearer wrong")
    assert wrong.get("www-authenticate") == 'Bearer realm="gatewright", error="invalid_token"'


def test_two_authorizations_are_none(guarded: RunningAdmin) -> None:
    with RawSocket.connect(guarded.port) as client:
        field = f"Authorization: Bearer {TOKEN}\r\n"
        client.send(f"GET /status HTTP/1.1\r\nHost: a\r\n{field}{field}\r\n".encode())
        assert reason(client.read_answer()) == (401, "unauthorized")


def test_tokens_are_compared_in_constant_time_over_digests(
    guarded: RunningAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr(security.hmac, "compare_digest", compare)
    for field in (f"Bearer {TOKEN}", f"Bearer {TOKEN[0]}", "Bearer x", f"Basic {TOKEN}", ""):
        guarded.ask("GET", "/status", authorization=field)
    assert len(compared) == 5  # also where nothing was given, and for another scheme
    assert {len(digest) for pair in compared for digest in pair} == {32}


def test_probes_need_no_token(guarded: RunningAdmin) -> None:
    for path in ("/healthz", "/readyz"):
        assert guarded.ask("GET", path, host="10.1.2.3:9901").status == 200
        assert reason(guarded.ask("GET", path, sec_fetch_site="cross-site")) == (403, "cross_site")


def test_with_a_token_any_host_will_do(guarded: RunningAdmin) -> None:
    answer = guarded.ask("GET", "/status", host="gateway.example:9901", authorization=f"Bearer {TOKEN}")
    assert answer.status == 200


def test_a_token_that_changes_counts_at_once(tmp_path: Path) -> None:
    with run_admin(FakeOperations(tmp_path), TOKEN) as running:
        running.access.token = "another-one-entirely"
        assert running.ask("GET", "/status", authorization=f"Bearer {TOKEN}").status == 401
        assert running.ask("GET", "/status", authorization="Bearer another-one-entirely").status == 200


# This machine only


@pytest.mark.parametrize(
    "host", ["127.0.0.1:{port}", "127.9.9.9", "localhost", "LocalHost:{port}", "[::1]:{port}", "localhost:8000"]
)
def test_names_that_mean_this_machine(open_admin: RunningAdmin, host: str) -> None:
    assert open_admin.ask("GET", "/status", host=host.format(port=open_admin.port)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.localhost",
        "10.0.0.1",
        "0.0.0.0:{port}",
        "[::]",
        "[::1].evil.example",
        "localhost@evil.example",
        "localhost:80:80",
        "2130706433",
        "0x7f.1",
        "",
    ],
)
def test_dns_rebinding_is_refused(open_admin: RunningAdmin, host: str) -> None:
    for method, path in (("GET", "/config"), ("GET", "/healthz"), ("POST", "/reload")):
        answer = open_admin.ask(method, path, host=host.format(port=open_admin.port))
        assert reason(answer) == (421, "wrong_host")
    assert open_admin.operations.calls == []


def test_no_host_is_refused(open_admin: RunningAdmin) -> None:
    with RawSocket.connect(open_admin.port) as client:
        client.send(b"GET /status HTTP/1.0\r\n\r\n")
        assert reason(client.read_answer()) == (421, "wrong_host")


def test_the_name_that_it_is_bound_to_is_known(tmp_path: Path) -> None:
    with run_admin(FakeOperations(tmp_path)) as running:
        running.access.host = "gateway.internal"
        assert running.ask("GET", "/status", host="Gateway.internal:99").status == 200


async def _ask_from(client: tuple[str, int] | None, host: bytes = b"localhost") -> int:
    nobody: Any = None
    app = make_app(nobody, Access())
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "GET", "path": "/healthz", "raw_path": b"/healthz", "query_string": b"",
        "headers": [(b"host", host)], "client": client, "server": None, "scheme": "http", "root_path": "",
        "http_version": "1.1",
    }  # fmt: skip
    await app(scope, receive, send)
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    ("address", "status"),
    [("127.0.0.1", 200), ("::1", 200), ("::ffff:127.0.0.1", 200), ("10.0.0.9", 403), ("::ffff:10.0.0.9", 403)],
)
def test_without_a_token_other_machines_are_refused_whatever_it_is_bound_to(
    open_admin: RunningAdmin, address: str, status: int
) -> None:
    assert open_admin.call(_ask_from, (address, 4711)) == status


def test_forwarding_fields_change_nothing(open_admin: RunningAdmin) -> None:
    fields = {"x_forwarded_for": "10.0.0.9", "x_forwarded_host": "evil.example", "forwarded": "for=10.0.0.9"}
    assert open_admin.ask("GET", "/status", **fields).status == 200
    assert open_admin.ask("GET", "/status", host="evil.example", x_forwarded_host="localhost").status == 421


# Other sites


@pytest.mark.parametrize(
    "fields",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1"},
        {"origin": "http://127.0.0.1:3000"},
        {"origin": "http://localhost:{port}"},
        {"origin": "http://127.0.0.1:{port}.evil.example"},
        {"origin": ""},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "cross-site", "origin": "http://127.0.0.1:{port}"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_pages_of_other_origins_are_refused(
    open_admin: RunningAdmin, guarded: RunningAdmin, method: str, fields: dict[str, str]
) -> None:
    for running in (open_admin, guarded):
        filled = {name: value.format(port=running.port) for name, value in fields.items()}
        if running is guarded:
            filled["authorization"] = f"Bearer {TOKEN}"
        answer = running.ask(method, "/config", **filled)
        assert answer.status == 403
        assert not [name for name, _ in answer.headers if name.lower().startswith("access-control")]
    assert open_admin.operations.calls == guarded.operations.calls == []


@pytest.mark.parametrize(
    "fields",
    [
        {"origin": "http://127.0.0.1:{port}", "sec_fetch_site": "same-origin"},
        {"origin": "http://127.0.0.1:{port}"},
        {"sec_fetch_site": "none"},
    ],
)
def test_pages_of_its_own_are_served(open_admin: RunningAdmin, fields: dict[str, str]) -> None:
    filled = {name: value.format(port=open_admin.port) for name, value in fields.items()}
    assert open_admin.ask("GET", "/status", **filled).status == 200
    assert open_admin.ask("POST", "/reload", **filled).status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/reload"), ("POST", "/config/validate"), ("PUT", "/config"), ("PATCH", TARGET)],
)
def test_what_a_form_can_send_is_refused(open_admin: RunningAdmin, method: str, path: str, kind: str) -> None:
    for body in (b"", b'{"draining":true}'):
        answer = open_admin.ask(method, path, body, content_type=kind, if_match="*")
        assert reason(answer) == (415, "unsupported_media_type")
    assert open_admin.operations.calls == []


def test_a_body_needs_a_type(open_admin: RunningAdmin) -> None:
    assert reason(open_admin.ask("PATCH", TARGET, b'{"draining":true}')) == (415, "unsupported_media_type")
    with RawSocket.connect(open_admin.port) as client:
        client.send(b"PATCH %s HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" % TARGET.encode())
        client.send(b"2\r\n{}\r\n0\r\n\r\n")
        assert reason(client.read_answer()) == (415, "unsupported_media_type")


@pytest.mark.parametrize(("method", "path"), [("PATCH", TARGET), ("POST", "/cache/purge"), ("POST", "/reload")])
def test_yaml_is_for_configurations_only(open_admin: RunningAdmin, method: str, path: str) -> None:
    for answer in (
        open_admin.ask(method, path, b"{}", content_type="application/yaml"),
        open_admin.ask(method, path, b"{}"),
    ):
        assert reason(answer) == (415, "unsupported_media_type")
        assert b"yaml" not in answer.body
    assert b"application/json or application/yaml" in open_admin.ask("PUT", "/config", b"{}", if_match="*").body
    assert open_admin.operations.calls == []


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://127.0.0.1:{port}/healthz", 200),
        ("HTTPS://LocalHost/routes/p%69ng?x=http://evil.example/", 200),
        ("http://localhost", 404),
        ("http://localhost?/status", 404),
        ("http://evil.example/healthz", 421),
        ("http://localhost@evil.example/healthz", 421),
        ("http:///healthz", 421),
    ],
)
def test_a_target_in_absolute_form_says_the_host(open_admin: RunningAdmin, target: str, status: int) -> None:
    field = "localhost" if status == 421 else "evil.example"
    assert open_admin.ask("GET", target.format(port=open_admin.port), host=field).status == status


def test_a_websocket_is_no_way_in(open_admin: RunningAdmin) -> None:
    upgrade = {"connection": "Upgrade", "upgrade": "websocket", "sec_websocket_version": "13"}
    answer = open_admin.ask("GET", "/nothing", sec_websocket_key="AAAAAAAAAAAAAAAAAAAAAA==", **upgrade)
    assert answer.status == 404


# What every answer has, and sizes


@pytest.mark.parametrize("path", ["/status", "/nowhere", "/healthz", "/config", "/docs"])
def test_answers_are_kept_by_nobody_and_sniffed_by_nobody(open_admin: RunningAdmin, path: str) -> None:
    answer = open_admin.ask("GET", path)
    assert answer.get("cache-control") == "no-store"
    assert answer.get("x-content-type-options") == "nosniff"
    assert answer.get("cross-origin-resource-policy") == "same-origin"
    assert "default-src 'none'" in (answer.get("content-security-policy") or "")
    assert answer.get("server") is None


def test_a_body_that_is_announced_too_large_is_not_read(open_admin: RunningAdmin) -> None:
    for path, limit in (("/config/validate", 16 * 1024**2), ("/reload", 64 * 1024)):
        for length in (str(limit + 1), "9" * 40):
            with RawSocket.connect(open_admin.port) as client:
                head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                client.send(f"{head}Content-Length: {length}\r\n\r\n".encode())
                assert client.read_answer().status in ((413, 400) if len(length) == 40 else (413,))


def test_a_body_that_grows_too_large_is_refused(open_admin: RunningAdmin) -> None:
    with RawSocket.connect(open_admin.port) as client:
        client.send(b"POST /reload HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        client.send(b"Transfer-Encoding: chunked\r\n\r\n" + b"4000\r\n%s\r\n" % (b" " * 0x4000) * 5)
        assert reason(client.read_answer()) == (413, "body_too_large")
    assert open_admin.operations.calls == []


def test_a_client_that_goes_away_within_its_body_changes_nothing(open_admin: RunningAdmin) -> None:
    with RawSocket.connect(open_admin.port) as client:
        client.send(b"POST /reload HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        client.send(b"Content-Length: 10\r\n\r\n{")
        client.sock.shutdown(socket.SHUT_WR)
        client.read_to_end()
    assert open_admin.ask("GET", "/status").status == 200
    assert open_admin.operations.calls == []


def test_a_token_is_asked_for_before_a_body_is_read(guarded: RunningAdmin) -> None:
    with RawSocket.connect(guarded.port) as client:
        client.send(
            b"PUT /config HTTP/1.1\r\nHost: a\r\nContent-Type: application/yaml\r\nContent-Length: 9999\r\n\r\n"
        )
        assert reason(client.read_answer()) == (401, "unauthorized")


def test_what_fails_unexpectedly_is_a_problem_and_in_the_log(
    open_admin: RunningAdmin, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise RuntimeError("the reason is for the log")

    open_admin.operations.hook = fail
    try:
        with RawSocket.connect(open_admin.port) as client:
            for _ in range(2):  # on one connection: it stays usable
                client.send(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
                answer = client.read_answer()
                assert reason(answer) == (500, "internal_error")
                assert b"for the log" not in answer.body
    finally:
        open_admin.operations.hook = None
    assert answer.get("x-request-id") in caplog.text
    assert "the reason is for the log" in caplog.text
