"""Faults that meet each other: real processes, and a reload, a drain or a death at the wrong moment."""

import json
import os
import signal
import sys
import threading

import pytest

from tests.kit.answers import why
from tests.kit.faults import CONFIG, PICKY, PLUGIN, USE, streaming
from tests.kit.process import EchoProcess
from tests.kit.wire import OK, TIMEOUT, RawSocket, get


def test_a_reload_ends_an_outage_that_a_failing_plugin_has_made(run, tmp_path, target):
    (tmp_path / "mine.py").write_text(PICKY)
    gateway = run(CONFIG.format(workers=1, url=target().url) + USE).ready()
    (pid,) = gateway.workers()
    (tmp_path / "broken").touch()
    os.kill(pid, signal.SIGKILL)
    gateway.wait_for("cannot be started yet")
    status, answer = gateway.reload()
    assert status == 422, answer
    gateway.write(CONFIG.format(workers=1, url=target().url))
    assert gateway.reload()[0] == 200
    assert get(gateway.port, "/here").body == b"here"
    assert gateway.end() == 0


def test_fewer_workers_leave_streams_alone(run, target):
    gateway = run(CONFIG.format(workers=3, url=target(streaming).url)).ready()
    streams = [RawSocket.connect(gateway.port) for _ in range(12)]  # so that each worker has some
    for stream in streams:
        stream.send(b"GET /stream HTTP/1.1\r\nHost: test\r\n\r\n")
        stream.read_until(b"begun\r\n")
    gateway.write(CONFIG.format(workers=1, url=target(streaming).url))
    assert gateway.reload()[0] == 200
    gateway.until(lambda: len(gateway.workers()) == 1, "one worker")
    for stream in streams:
        stream.sock.setblocking(False)
        with pytest.raises(BlockingIOError):  # neither an end nor a reset
            stream.sock.recv(1)
        stream.close()


def test_hundreds_of_listeners_reach_every_worker(run, target):
    many = "listeners: [" + ", ".join(['{bind: "127.0.0.1:0"}'] * 90) + "]\n"
    gateway = run(many + CONFIG.format(workers=4, url=target().url)).ready()
    gateway.write(many + CONFIG.format(workers=1, url=target().url))
    assert gateway.reload()[0] == 200
    gateway.until(lambda: len(gateway.workers()) == 1, "one worker")
    for port in gateway.ports[::9]:
        assert get(port, "/here").body == b"here"


def test_closed_standard_streams_are_no_danger_to_the_channel(run, target):
    closing = "import os, sys; os.close(1); os.execv(sys.argv[1], sys.argv[1:])"
    config = "access_log: {destination: stdout}\n" + CONFIG.format(workers=2, url=target().url)
    gateway = run(config, wrapper=[sys.executable, "-c", closing]).ready()
    workers = gateway.workers()
    for _ in range(20):
        assert get(gateway.port, "/here").status == 200
    gateway.until(lambda: gateway.status()["requests_total"] == 20, "the counts")
    assert gateway.workers() == workers
    assert gateway.end() == 0


def test_targets_are_asked_again_as_soon_as_a_file_descriptor_is_free(run, target):
    few = "import os, resource as r, sys; r.setrlimit(r.RLIMIT_NOFILE, (64, 64)); os.execv(sys.argv[1], sys.argv[1:])"
    config = CONFIG.format(workers=1, url=target().url).replace(
        "]}}", "], breaker: {minimum: 2, window: 60s, open: 60s}}}"
    )
    gateway = run(config, wrapper=[sys.executable, "-c", few]).ready()
    clients = [RawSocket.connect(gateway.port) for _ in range(64)]
    assert clients[-1].read_to_end() == b""  # no descriptor was free for it

    def ask():
        clients[0].send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        answer = clients[0].read_answer()
        return "served" if answer.status == 200 else why(answer)[1]

    assert {ask() for _ in range(4)} == {"sockets_exhausted"}
    assert "LimitNOFILE" in gateway.wait_for("a target cannot be connected to")[0]
    for client in clients[1:]:
        client.close()
    assert gateway.until(lambda: {ask()} - {"sockets_exhausted"}) == {"served"}
    clients[0].close()
    assert gateway.end() == 0
    assert len([line for line in gateway.said if "a target cannot be connected to" in line]) == 1


def test_a_signal_ends_a_start_that_hangs(run, tmp_path, target):
    (tmp_path / "mine.py").write_text(
        "import asyncio, sys\n"
        + PLUGIN
        + "    async def start(self):\n        print('waiting', file=sys.stderr, flush=True)\n"
        + "        await asyncio.Event().wait()\n"
    )
    gateway = run(CONFIG.format(workers=1, url=target().url) + USE)
    gateway.wait_for("waiting")
    gateway.tell(signal.SIGTERM)
    assert gateway.process.wait(5) == 0


def test_a_plugin_that_cancels_itself_or_says_nonsense_fails_the_reload_alone(run, tmp_path, target):
    gateway = run(CONFIG.format(workers=2, url=target().url)).ready()
    workers = gateway.workers()
    for body in (
        "import asyncio; asyncio.current_task().cancel(); await asyncio.sleep(1)",
        "raise asyncio.CancelledError",
        "raise ValueError('\\ud800' * 10)",
        "raise ValueError('x' * 70_000_000)",
        "raise type('Odd', (Exception,), {'__str__': lambda self: exit()})",
    ):
        for hook in ("async def start(self)", "def __init__(self, config)"):
            (tmp_path / "mine.py").write_text(f"import asyncio\n{PLUGIN}    {hook}:\n        {body}\n")
            gateway.write(CONFIG.format(workers=2, url=target().url) + USE)
            status, answer = gateway.reload()
            assert status == 422, (hook, body, answer)
            assert gateway.workers() == workers


def test_a_plugin_that_does_not_stop_cleanly_costs_no_worker_and_hides_no_reason(run, tmp_path, target):
    """`await` of what was just cancelled raises CancelledError, also where nobody else was cancelled."""
    (tmp_path / "mine.py").write_text(
        "import asyncio\n"
        + PLUGIN
        + "    async def start(self):\n        self.task = asyncio.ensure_future(asyncio.Event().wait())\n"
        + "    async def stop(self):\n        self.task.cancel()\n        await self.task\n"
        + "class Bad(Plugin[PluginConfig]):\n    async def start(self):\n        raise OSError('no database')\n"
    )
    config = CONFIG.format(workers=2, url=target().url) + USE
    gateway = run(config).ready()
    workers = gateway.workers()
    assert gateway.admin("POST", "/config/validate", gateway.file.read_text())[0] == 200
    gateway.write(config.replace("}]\n", '}, {use: "./mine.py:Bad"}]\n'))
    status, answer = gateway.reload()
    assert (status, "no database" in str(answer)) == (422, True), answer
    gateway.write(config.replace("body: here", "body: there"))
    assert gateway.reload()[0] == 200
    gateway.wait_for("plugin mine did not stop cleanly", 4)
    assert gateway.workers() == workers
    assert gateway.end() == 0


SHUTS_DOWN = """
import asyncio, os, sys
async def app(scope, receive, send):
    while (await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    print("shutdown begins", file=sys.stderr)
    while not os.path.exists("go"):
        await asyncio.sleep(0.05)
    print("shutdown is done", file=sys.stderr)
    await send({"type": "lifespan.shutdown.complete"})
"""


def test_an_end_that_has_begun_is_not_cut_short_by_another_grace(run, tmp_path, target):
    (tmp_path / "shuts.py").write_text(SHUTS_DOWN)
    config = CONFIG.format(workers=1, url=target().url)
    gateway = run(config.replace("services: {", "services: {app: {app: 'shuts:app'}, ")).ready()
    (pid,) = gateway.workers()
    os.kill(pid, signal.SIGTERM)
    gateway.wait_for("shutdown begins")
    gateway.until(lambda: gateway.workers() not in ([], [pid]), "a successor")
    gateway.tell(signal.SIGTERM)
    gateway.wait_for("shutdown begins", 2)  # the other worker was told after this one
    (tmp_path / "go").touch()
    assert gateway.process.wait(TIMEOUT) == 0
    gateway.wait_for("shutdown is done", 2)


def test_what_is_open_when_the_gateway_is_told_to_end_is_finished(run, target):
    go = threading.Event()

    def script(session):
        head = session.read_head()
        path = head.split(b" ")[1]
        if path == b"/socket":
            session.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
            while data := session.sock.recv(1000):
                session.send(data)
        elif path == b"/upload":
            session.read_exactly(6)
            session.send(OK)
        else:
            length = b"Content-Length: 10" if path == b"/download" else b"Transfer-Encoding: chunked"
            first = b"01234" if path == b"/download" else b"5\r\nevent\r\n"
            session.send(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n\r\n" + first)
            assert go.wait(TIMEOUT)
            session.send(b"56789" if path == b"/download" else b"3\r\nend\r\n0\r\n\r\n")

    config = CONFIG.format(workers=2, url=target(script).url).replace("grace: 2s", "grace: 20s")
    gateway = run(config).ready()
    clients = {path: RawSocket.connect(gateway.port) for path in ("download", "events", "upload", "socket")}
    for path in ("download", "events"):
        clients[path].send(f"GET /{path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        clients[path].read_until(b"01234" if path == "download" else b"event\r\n")
    clients["upload"].send(b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\nabc")
    clients["socket"].send(b"GET /socket HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhi")
    clients["socket"].read_until(b"\r\n\r\nhi")
    gateway.tell(signal.SIGTERM)
    gateway.wait_for("finishing")
    gateway.until(lambda: refused(gateway.port), "the listener's end")
    clients["socket"].send(b"still here")
    assert clients["socket"].read_exactly(10) == b"still here"
    clients["upload"].send(b"def")
    assert clients["upload"].read_answer().status == 200
    go.set()
    assert clients["download"].read_to_end() == b"56789"
    assert clients["events"].read_to_end() == b"3\r\nend\r\n0\r\n\r\n"
    clients["socket"].close()
    assert gateway.process.wait(TIMEOUT) == 0
    for client in clients.values():
        client.close()


def refused(port):
    try:
        RawSocket.connect(port).close()
    except OSError:
        return True
    return False


def test_two_of_three_targets_die_at_once_and_nothing_that_could_not_connect_is_lost(run, load, stack, tmp_path):
    """With nothing said about retries. What the dying had begun to read is another matter: a POST is not repeated."""
    servers = [stack.enter_context(EchoProcess(name)) for name in "abc"]
    log = tmp_path / "access.log"
    targets = ", ".join(f"'http://127.0.0.1:{server.port}'" for server in servers)
    gateway = run(f"""
workers: 2
access_log: {{destination: {log}, format: json}}
services: {{s: {{targets: [{targets}]}}}}
routes: [{{name: all, match: {{path: "/{{rest...}}"}}, service: s}}]
""").ready()
    steady = load(gateway.port, rate=400, connections=8, methods="GET,POST")

    def serve(count):
        goal = gateway.status()["requests_total"] + count
        gateway.until(lambda: gateway.status()["requests_total"] >= goal, "served")

    serve(100)
    for server in servers[:2]:
        server.kill()
    serve(400)
    account = steady.end()
    assert gateway.end() == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    lost = [line for line in lines if line["status"] != 200]
    assert {(line["method"], line["reason"]) for line in lost} <= {("POST", "upstream_reset")}, lost
    assert len(lost) <= 8  # as many as there were connections
    assert (account["sent"] - account["good"], account["unanswered"]) == (len(lost), 0)
    went_on = [line for line in lines if line["status"] == 200 and line["attempts"] > 1]
    assert {line["method"] for line in went_on} == {"GET", "POST"}
    assert account["tags"].keys() == {"a", "b", "c"}
