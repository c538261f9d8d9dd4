"""Another configuration while requests come: nothing is lost, everything may change, and what fails changes nothing."""

import asyncio
import gc
import os
import ssl
import sys
import threading
import weakref

import pytest
import trustme

from gatewright.app import ConfigurationError, StartError
from tests.kit.answers import plan, reply, services, why
from tests.kit.inside import target as inner
from tests.kit.inside import until
from tests.kit.reloading import PLUGIN, REQUEST, USE, all_ended, open_files, saying
from tests.kit.wire import OK, RawSocket, get


class Client:
    """Asks on one connection, as fast as it gets answers, and keeps what they said."""

    def __init__(self, port: int) -> None:
        self.said: list[bytes] = []
        self.error: BaseException | None = None
        self._socket = RawSocket.connect(port)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._socket.send(REQUEST)
                answer = self._socket.read_answer()
                assert answer.status == 200, answer
                assert answer.get("connection") is None, answer
                self.said.append(answer.body)
        except BaseException as error:
            self.error = error

    def stop(self) -> list[bytes]:
        self._stop.set()
        self._thread.join(10)
        self._socket.close()
        if self.error is not None:
            raise self.error
        return self.said


@pytest.mark.parametrize("loop", [None, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def test_reloads_under_load_lose_nothing_and_close_nothing(gateway, target, loop):
    upstream = target()
    text = services({"s": [upstream.url]}, routes=None)
    running = gateway(text, files={"marks.py": PLUGIN.format(mark=0)}, **({"loop": loop} if loop else {}))
    clients = [Client(running.port) for _ in range(4)]
    for number in range(50):
        (running.folder / "marks.py").write_text(PLUGIN.format(mark=number % 10))
        running.reload(text + f"plugins: {USE}\nlimits: {{body: {number + 1}MiB}}\n")
        assert get(running.port).get("x-mark") == str(number % 10), "two edits of equal length within a second"
    said = [client.stop() for client in clients]
    assert all(len(each) > 50 for each in said)
    assert {body for each in said for body in each} == {b"ok"}
    until(running, lambda: not running.gateway._generations.earlier)
    assert len(upstream.sessions) < 15, "connections to a target that stays are kept too"


def test_an_exchange_keeps_what_it_began_with(gateway, target):
    go = threading.Event()

    def late(session):
        session.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        go.wait(10)
        session.send(b"1\r\nb\r\n0\r\n\r\n")

    plugin = PLUGIN.format(mark="old") + (
        "    def tell(self, word):\n        with open(r'{file}', 'a') as file:\n            file.write(word)\n"
        "    def on_done(self, exchange):\n        self.tell('done ')\n"
        "    async def stop(self):\n        self.tell('stopped ')\n"
    )
    upstream = target(plan(late))
    text = services({"s": [upstream.url]}) + f"plugins: {USE}\n"
    running = gateway(text, files={"marks.py": PLUGIN.format(mark="first")})
    told = running.folder / "done.txt"
    (running.folder / "marks.py").write_text(plugin.replace("{file}", str(told)))
    running.reload(text)
    with RawSocket.connect(running.port) as client:
        client.send(REQUEST)
        client.read_until(b"\r\n\r\n1\r\na\r\n")
        (running.folder / "marks.py").write_text(PLUGIN.format(mark="new"))
        running.reload(saying("new", USE))
        answer = get(running.port)
        assert (answer.body, answer.get("x-mark")) == (b"new", "new")
        running.reload(saying("newer", USE))
        until(running, lambda: len(running.gateway._generations.earlier) == 1)
        assert not told.exists(), "it is in use, and only what came after it has ended"
        assert running.gateway.in_flight == 1
        go.set()
        assert client.read_until(b"0\r\n\r\n") == b"1\r\nb\r\n0\r\n\r\n"
    until(running, lambda: told.read_text() == "done stopped ")


def test_a_service_that_did_not_change_keeps_its_condition_and_connections(gateway, target):
    same, other = target(), target()
    text = services({"s": [same.url], "o": [other.url]})
    running = gateway(text)
    get(running.port)
    before = running.call(lambda: (inner(running), inner(running, name="o")))
    before[0].ejected_until = 1e12
    running.reload(text.replace("  o:\n", "  o:\n    max_in_flight: 7\n"))
    after = running.call(lambda: (inner(running), inner(running, name="o")))
    assert after[0] is before[0]
    assert after[1] is not before[1]
    assert running.call(running.gateway.target_states)[0]["ejected"]
    get(running.port)
    assert len(same.sessions) == 1


def test_what_is_said_of_a_target_survives_a_change_of_its_service(gateway, target):
    upstream = target()
    text = services({"s": [upstream.url]}, "health: {path: /, interval: 1h, timeout: 1h}")
    running = gateway(text)
    name = f"127.0.0.1:{upstream.port}"
    for change in ({"healthy": False}, {"draining": True}, {"weight": 7}):
        running.call(lambda change=change: running.gateway.set_target("s", name, **change))
    running.call(lambda: running.gateway.set_target("nobody", name, healthy=False))
    running.reload(text.replace("  s:\n", "  s:\n    max_in_flight: 7\n"))
    (row,) = running.call(running.gateway.target_states)
    assert row == {
        "service": "s",
        "target": name,
        "url": upstream.url,
        "weight": 7,
        "healthy": False,
        "draining": True,
        "ejected": False,
        "breaker": "closed",
        "in_flight": 0,
    }
    running.reload(services({"s": [upstream.url]}))
    (row,) = running.call(running.gateway.target_states)
    assert (row["healthy"], row["draining"], row["weight"]) == (True, True, 7), "nobody checks it any more"
    running.reload(text)
    running.call(lambda: running.gateway.set_target("s", name, healthy=False))
    running.reload(services({"s": [upstream.url]}))
    assert running.call(running.gateway.target_states)[0]["healthy"], "nor here, where nothing else has changed"
    running.reload(saying("hello"))
    assert running.call(running.gateway.target_states) == []


def test_a_state_that_is_set_between_the_halves_of_a_reload_holds(gateway, target):
    a, b = target(), target()
    running = gateway(services({"s": [a.url]}))
    prepared = running.prepare(services({"s": [b.url]}))
    running.call(lambda: running.gateway.set_target("s", f"127.0.0.1:{b.port}", draining=True))
    running.call(running.gateway.commit, prepared)
    assert why(get(running.port)) == (503, "no_healthy_target")


def test_listeners_come_go_and_stay(gateway):
    running = gateway("listeners: [{bind: '127.0.0.1:0'}, {bind: 'localhost:0'}]\n" + saying("hello"))
    stays, goes = (listener.port for listener in running.listeners)
    with RawSocket.connect(stays) as one, RawSocket.connect(goes) as idle, RawSocket.connect(goes) as other:
        for client in (one, idle, other):
            client.send(REQUEST)
            client.read_answer()
        other.send(REQUEST[:20])
        until(running, lambda: any(each.state.value == "head" for each in running.listeners[1].connections))
        running.reload("listeners: [{bind: '127.0.0.1:0'}, {bind: '127.0.0.1:0'}]\n" + saying("hello"))
        assert running.listeners[0].port == stays
        assert get(running.listeners[1].port).body == b"hello"
        assert idle.read_to_end() == b""
        other.send(REQUEST[20:])
        answer = other.read_answer()
        assert (answer.body, answer.get("connection")) == (b"hello", "close")
        one.send(REQUEST)
        assert one.read_answer().get("connection") is None
        with pytest.raises(OSError, match="refused"):
            RawSocket.connect(goes)
        until(running, lambda: not running.gateway._listeners._leaving)


def test_limits_and_trust_change_for_connections_that_stay(gateway):
    text = "listeners: [{{bind: '127.0.0.1:0', trusted_proxies: [{0}]}}]\nlimits: {{headers: {1}}}\n" + saying(
        "x"
    ).replace("{", "{{").replace("}", "}}")
    running = gateway(text.format("", "32KiB"))
    long = REQUEST[:-2] + b"X-Request-ID: mine\r\nX-Long: " + b"x" * 1000 + b"\r\n\r\n"
    with RawSocket.connect(running.port) as client:
        client.send(long)
        answer = client.read_answer()
        assert (answer.status, answer.get("x-request-id") == "mine") == (200, False)
        running.reload(text.format("127.0.0.1", "32KiB"))
        client.send(long)
        assert client.read_answer().get("x-request-id") == "mine"
        running.reload(text.format("127.0.0.1", "512B"))
        client.send(long)
        assert why(client.read_answer()) == (431, "headers_too_large")


def pem(folder, ca, name):
    cert = ca.issue_cert(name)
    cert.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    cert.private_key_pem.write_to_path(folder / "key.pem")


def names(client: RawSocket) -> str:
    assert isinstance(client.sock, ssl.SSLSocket)
    certificate = client.sock.getpeercert()
    assert certificate is not None
    return certificate["subjectAltName"][0][1]


@pytest.mark.parametrize("loop", [None, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def test_tls_files_change_and_no_connection_closes(gateway, tmp_path, loop):
    ca = trustme.CA()
    context = ssl.create_default_context()
    context.check_hostname = False
    ca.configure_trust(context)
    pem(tmp_path, ca, "a.test")
    text = f"listeners: [{{bind: '127.0.0.1:0', tls: {{cert: {tmp_path}/cert.pem, key: {tmp_path}/key.pem}}}}]\n"
    running = gateway(text + saying("hello"), **({"loop": loop} if loop else {}))
    port = running.port
    with RawSocket.connect(port, context) as old:
        assert names(old) == "a.test"
        pem(tmp_path, ca, "b.test")
        running.reload(text + saying("hello"))
        with RawSocket.connect(port, context) as new:
            assert names(new) == "b.test"
        (tmp_path / "key.pem").write_text("nonsense")
        with pytest.raises(StartError, match="no good"):
            running.reload(text + saying("hello"))
        running.reload(saying("plain"))
        old.send(REQUEST)
        assert old.read_answer().body == b"plain"
        assert (running.port, get(port).body) == (port, b"plain")


def test_files_of_a_services_tls_section_are_read_anew(gateway, target, tmp_path):
    ca, other, file = trustme.CA(), trustme.CA(), tmp_path / "ca.pem"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    other.cert_pem.write_to_path(file)
    text = services({"s": [target(tls=context).url]}, f"tls: {{ca: '{file}'}}\nretry: {{attempts: 0}}")
    running = gateway(text)
    assert why(get(running.port)) == (502, "tls_failed")
    ca.cert_pem.write_to_path(file)
    running.reload(text)
    assert get(running.port).body == b"ok"
    file.write_text("nonsense")
    with pytest.raises(ConfigurationError, match=r"services\.s\.tls: "):
        running.reload(text)
    assert get(running.port).body == b"ok"


def test_an_address_that_is_taken_changes_nothing(gateway, target):
    running = gateway(saying("one"))
    taken = f"listeners: [{{bind: '127.0.0.1:0'}}, {{bind: '127.0.0.1:{target().port}'}}]\n"
    with pytest.raises(StartError, match=r"cannot listen on 127.0.0.1:[0-9]+ \(listeners.1..bind\): address already"):
        running.reload(taken + saying("two"))
    assert get(running.port).body == b"one"


def test_the_access_log_can_change(gateway):
    running = gateway(saying("one"))
    get(running.port, "/old")
    running.reload(f"access_log: {{destination: {running.folder}/b.log}}\n" + saying("two"))
    get(running.port, "/new")
    running.reload("access_log: false\n" + saying("three"))
    get(running.port, "/none")
    running.reload(saying("four"))
    get(running.port, "/again")
    assert [line["path"] for line in running.access_log()] == ["/old", "/again"]
    assert (running.folder / "b.log").read_text().count('"/new"') == 1
    os.rename(running.folder / "access.log", running.folder / "moved.log")
    running.call(running.gateway.reopen_logs)
    get(running.port, "/reopened")
    until(running, (running.folder / "access.log").exists)
    assert [line["path"] for line in running.access_log()] == ["/reopened"]


@pytest.mark.skipif(sys.platform != "linux", reason="open files are counted in /proc")
@pytest.mark.timeout(120)
def test_two_hundred_reloads_leave_nothing_behind(gateway, target):
    upstream = target()
    text = services({"s": [upstream.url], "o": [upstream.url]}, "health: {path: /, interval: 1h}")
    running = gateway(text, files={"marks.py": PLUGIN.format(mark=0)})
    kept: list[weakref.ref[object]] = []
    seen: list[tuple[int, int, int]] = []

    def look() -> tuple[int, int, int]:
        gc.collect()
        return len(asyncio.all_tasks()), open_files(), len([n for n in sys.modules if n.endswith("_marks")])

    for number in range(199):
        (running.folder / "marks.py").write_text(PLUGIN.format(mark=number))
        changing = text.replace("o:\n", f"o:\n    max_in_flight: {number + 1}\n")
        second = "listeners: [{bind: '127.0.0.1:0'}, {bind: 'localhost:0'}]\n" if number % 2 else ""
        running.reload(second + changing + f"plugins: {USE}\n")
        built = running.call(lambda: running.gateway._generations.present)
        kept += [weakref.ref(built), weakref.ref(built.plugins[0]), weakref.ref(built.snapshot.services["o"])]
        kept.append(weakref.ref(sys.modules[type(built.plugins[0]).__module__]))
        del built
        assert get(running.port).get("x-mark") == str(number)
        if number in (20, 198):
            until(running, lambda: all_ended(running))
            until(running, lambda: not running.gateway._listeners._leaving)
            seen.append(running.call(look))
    assert seen[0] == seen[1]
    assert sum(ref() is not None for ref in kept[:-4]) == 0
    assert all(ref() is not None for ref in kept[-4:])


def test_a_route_may_go_while_it_answers(gateway, target):
    upstream = target(
        plan(lambda session: (until(running, lambda: running.gateway._generations.earlier), session.send(OK)))
    )
    running = gateway(services({"s": [upstream.url]}))
    with RawSocket.connect(running.port) as client:
        client.send(REQUEST)
        until(running, lambda: running.gateway.in_flight)
        running.reload("routes: []\n")
        assert client.read_answer().body == b"ok"
        client.send(REQUEST)
        assert why(client.read_answer()) == (404, "no_route")


def test_while_it_prepares_the_gateway_answers(gateway, target):
    slow = "import time\nfor _ in range(10000): time.time()\ntime.sleep(0.3)\n" + PLUGIN.format(mark=1)
    running = gateway(saying("one"), files={"marks.py": slow})
    client = Client(running.port)
    until(running, lambda: len(client.said) > 1)
    before = len(client.said)
    prepared = running.prepare(saying("two", USE))
    assert len(client.said) > before + 10
    running.call(running.gateway.commit, prepared)
    assert client.stop()[-1] in (b"one", b"two")
    assert get(running.port).body == b"two"


def test_the_old_pool_of_a_changed_service_serves_what_is_under_way(gateway, target):
    go = threading.Event()
    upstream = target(plan(lambda session: (go.wait(10), session.send(reply(503))), reply(200, b"again")))
    text = services({"s": [upstream.url]}, "retry: {attempts: 1, on: [503]}\nbreaker: false")
    running = gateway(text)
    with RawSocket.connect(running.port) as client:
        client.send(REQUEST)
        until(running, lambda: inner(running).in_flight == 1)
        running.reload(text.replace("attempts: 1", "attempts: 0"))
        assert running.call(running.gateway.target_states)[0]["in_flight"] == 1, "of the old target, by its name"
        go.set()
        assert client.read_answer().body == b"again", "with the retry that it began with"
    until(running, lambda: not running.gateway._generations.earlier)
    assert running.call(running.gateway.target_states)[0]["in_flight"] == 0
