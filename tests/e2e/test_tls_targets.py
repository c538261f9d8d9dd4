"""https targets: whom the gateway believes, what it shows, and what becomes of a handshake that fails."""

import ssl

import pytest
import trustme

from tests.kit.answers import plan, why
from tests.kit.inside import NOTHING, at_rest
from tests.kit.inside import target as inner
from tests.kit.wire import OK, RawSocket, answer_all, get


@pytest.fixture(scope="module")
def ca():
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(ca, tmp_path_factory):
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return path


def server(ca, *names):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert(*(names or ("127.0.0.1",))).configure_cert(context)
    return context


NO_RETRY = "retry: {attempts: 0}\n"


def test_a_target_whose_authority_is_named_is_believed(proxy, target, ca, ca_file):
    upstream = target(tls=server(ca))
    running = proxy(upstream, f"tls: {{ca: '{ca_file}'}}")
    assert [get(running.port).body for _ in range(3)] == [b"ok"] * 3
    assert len(upstream.sessions) == 1, "connections are kept"


def test_an_unknown_authority_gives_tls_failed(proxy, target, ca):
    running = proxy(target(tls=server(ca)), NO_RETRY)
    assert why(get(running.port)) == (502, "tls_failed")
    assert "certificate" in running.access_log()[0]["cause"]
    assert running.call(lambda: inner(running).consecutive_failures) == 1
    assert at_rest(running) == NOTHING


def test_a_certificate_for_another_name_gives_tls_failed(proxy, target, ca, ca_file):
    running = proxy(target(tls=server(ca, "other.test")), NO_RETRY + f"tls: {{ca: '{ca_file}'}}")
    assert why(get(running.port)) == (502, "tls_failed")


def test_server_name_is_asked_for_and_checked(proxy, target, ca, ca_file):
    asked = []
    context = server(ca, "api.internal.test")
    context.sni_callback = lambda sock, name, context: asked.append(name)
    running = proxy(target(tls=context), f"tls: {{ca: '{ca_file}', server_name: api.internal.test}}")
    assert get(running.port).status == 200
    assert asked == ["api.internal.test"]


def test_verify_false_believes_anybody(proxy, target, ca):
    running = proxy(target(tls=server(ca, "other.test")), "tls: {verify: false}")
    assert get(running.port).status == 200


@pytest.fixture
def demanding(ca):
    context = server(ca)
    context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(context)
    return context


def test_a_client_certificate_is_shown(proxy, target, ca, ca_file, demanding, tmp_path):
    mine = ca.issue_cert("gateway.test")
    mine.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    mine.private_key_pem.write_to_path(tmp_path / "key.pem")
    shown = []

    def script(session):
        shown.append(session.sock.getpeercert())
        answer_all()(session)

    tls = f"tls: {{ca: '{ca_file}', cert: '{tmp_path}/cert.pem', key: '{tmp_path}/key.pem'}}"
    running = proxy(target(script, tls=demanding), tls)
    assert get(running.port).status == 200
    assert ("DNS", "gateway.test") in shown[0]["subjectAltName"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_without_the_certificate_that_is_demanded_tls_fails(proxy, target, ca_file, demanding, version):
    demanding.maximum_version = version
    running = proxy(target(tls=demanding), NO_RETRY + f"tls: {{ca: '{ca_file}'}}")
    status, reason = why(get(running.port))
    assert status == 502
    # With TLS 1.3 the alert comes behind the handshake, and a reset may overtake it.
    assert reason in ("tls_failed", "upstream_reset", "connect_failed")
    assert at_rest(running) == NOTHING


def test_plain_http_is_no_tls(gateway, target):
    upstream = target(lambda session: session.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    running = gateway(
        f'services:\n  s:\n    targets: ["https://127.0.0.1:{upstream.port}"]\n    {NO_RETRY}'
        "routes: [{name: all, match: {path: '/{rest...}'}, service: s}]\n"
    )
    assert why(get(running.port)) == (502, "tls_failed")


def test_a_handshake_that_hangs_ends_with_the_connect_timeout(gateway, target):
    upstream = target(lambda session: session.read_to_end())
    running = gateway(
        f'services:\n  s:\n    targets: ["https://127.0.0.1:{upstream.port}"]\n    timeouts: {{connect: 200ms}}\n'
        f"    {NO_RETRY}"
        "routes: [{name: all, match: {path: '/{rest...}'}, service: s}]\n"
    )
    assert why(get(running.port)) == (504, "connect_timeout")
    assert at_rest(running) == NOTHING


def test_an_answer_until_close_is_complete_with_a_close_notify(proxy, target, ca, ca_file):
    def script(session):
        session.read_request()
        session.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 200_000)
        session.sock.unwrap()

    running = proxy(target(script, tls=server(ca)), NO_RETRY + f"tls: {{ca: '{ca_file}'}}")
    assert len(get(running.port).body) == 200_000


def test_a_length_that_is_cut_off_is_no_answer(proxy, target, ca, ca_file):
    def script(session):
        session.read_request()
        session.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        session.sock.unwrap()

    running = proxy(target(script, tls=server(ca)), NO_RETRY + f"tls: {{ca: '{ca_file}'}}")
    with RawSocket.connect(running.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        with pytest.raises(EOFError):
            client.read_answer()
    assert running.access_log()[0]["reason"] == "upstream_truncated"


def test_health_checks_speak_tls_too(proxy, target, ca, ca_file):
    upstream = target(plan(then=OK), tls=server(ca))
    running = proxy(upstream, f"tls: {{ca: '{ca_file}'}}\nhealth: {{path: /health, interval: 100ms, unhealthy: 1}}")
    assert get(running.port).status == 200
    assert running.call(lambda: inner(running).healthy)
