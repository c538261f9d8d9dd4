"""Faults that meet each other: real processes, and a reload, a drain or a death at the wrong moment."""

import json
import os
import signal
import ssl
import sys
import threading

import pytest
import trustme

from tests.kit.answers import why
from tests.kit.process import EchoProcess, is_alive
from tests.kit.wire import OK, TIMEOUT, RawSocket, get

CONFIG = """
workers: {workers}
shutdown: {{grace: 2s}}
services: {{s: {{targets: ["{url}"]}}}}
routes:
  - {{name: here, match: {{path: /here}}, respond: {{status: 200, body: here}}}}
  - {{name: all, match: {{path: "/{{rest...}}"}}, service: s}}
"""
PLUGIN = """
from gatewright import Plugin, PluginConfig
class Mine(Plugin[PluginConfig]):
    def on_request(self, exchange):
        pass
"""
PICKY = """
import pathlib
from gatewright import Plugin, PluginConfig
class Mine(Plugin[PluginConfig]):
    async def start(self):
        if (pathlib.Path(__file__).parent / "broken").exists():
            raise OSError("no database")
"""
USE = 'plugins: [{use: "./mine.py:Mine"}]\n'
BEGUN = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n"


def streaming(session):
    session.read_request()
    session.send(BEGUN)
    session.read_to_end()


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


def test_a_successor_runs_what_the_others_run_whatever_has_become_of_the_files(run, fast, tmp_path):
    """An edit that was refused lies on the disk until somebody mends it, and so does a certificate's half."""
    certificate = trustme.CA().issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    (tmp_path / "helper.py").write_text("TAG = 'accepted'\n")
    (tmp_path / "mine.py").write_text(
        "import helper\nfrom gatewright import Plugin, PluginConfig\nclass Mine(Plugin[PluginConfig]):\n"
        "    def on_response(self, exchange, response):\n        response.headers.set('x-tag', helper.TAG)\n"
    )
    listeners = 'listeners: [{bind: "127.0.0.1:0"}, {bind: "127.0.0.1:0", tls: {cert: cert.pem, key: key.pem}}]\n'
    gateway = run(listeners + CONFIG.format(workers=2, url=fast) + USE).ready()
    (tmp_path / "helper.py").write_text("TAG = 'refused'\n")
    (tmp_path / "mine.py").write_text("class Mine(:\n")
    (tmp_path / "key.pem").unlink()
    assert gateway.reload()[0] == 422
    for pid in gateway.workers():
        os.kill(pid, signal.SIGKILL)
    gateway.until(lambda: len(gateway.workers()) == 2, "the successors")
    assert {dict(get(gateway.port, f"/{number}").headers)["x-tag"] for number in range(12)} == {"accepted"}
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    for _ in range(6):
        with RawSocket.connect(gateway.ports[1], tls=trusting) as secure:
            secure.send(b"GET /here HTTP/1.1\r\nHost: test\r\n\r\n")
            assert secure.read_answer().body == b"here"
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    (tmp_path / "mine.py").write_text(PLUGIN)
    assert gateway.reload()[0] == 200
    assert "x-tag" not in dict(get(gateway.port, "/").headers)
    assert gateway.end() == 0


def test_code_that_ends_its_process_costs_one_worker_and_changes_nothing(run, fast, tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    gateway = run(CONFIG.format(workers=3, url=fast) + USE).ready()
    before = gateway.workers()
    (tmp_path / "mine.py").write_text("import os\nos._exit(3)\n")
    status, answer = gateway.reload()
    assert (status, "ended with exit code 3 while it tried" in str(answer["errors"])) == (422, True)
    gateway.until(lambda: len(gateway.workers()) == 3, "its successor")
    assert len(set(before) & set(gateway.workers())) == 2
    assert {get(gateway.port, "/here").status for _ in range(12)} == {200}
    assert gateway.end() == 0


def test_a_worker_that_is_killed_while_it_tries_does_not_make_a_good_file_a_bad_one(run, fast, tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    gateway = run("watch: true\n" + CONFIG.format(workers=1, url=fast) + USE).ready()
    (pid,) = gateway.workers()
    waits = "import pathlib, time\nhere = pathlib.Path(__file__).parent\n(here / 'begun').touch()\n"
    (tmp_path / "mine.py").write_text(waits + "while not (here / 'go').exists(): time.sleep(0.01)\n" + PLUGIN)
    gateway.until((tmp_path / "begun").exists, "the attempt")
    os.kill(pid, signal.SIGKILL)
    (tmp_path / "go").touch()
    gateway.wait_for("while it tried")
    gateway.wait_for(r"configuration \w+ is in use \(file\)")
    assert gateway.end() == 0


def test_nobody_waits_for_a_worker_that_cannot_be_started(run, fast, tmp_path):
    (tmp_path / "mine.py").write_text(PICKY)
    gateway = run(CONFIG.format(workers=2, url=fast) + USE).ready()
    (tmp_path / "broken").touch()
    os.kill(gateway.workers()[0], signal.SIGKILL)
    gateway.wait_for("also serves the connections of worker 0")
    for number in range(24):
        assert get(gateway.port, f"/{number}").status == 200
    (tmp_path / "broken").unlink()
    assert gateway.reload()[0] == 200  # and nobody waits for the end of a pause
    gateway.until(lambda: len(gateway.workers()) == 2, "both")
    assert {get(gateway.port, "/here").status for _ in range(24)} == {200}
    assert gateway.end() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_who_waits_for_a_successor_is_served_before_the_end(run, fast, workers):
    gateway = run(CONFIG.format(workers=workers, url=fast).replace("grace: 2s", "grace: 20s")).ready()
    port = gateway.port
    for pid in gateway.workers():
        os.kill(pid, signal.SIGTERM)
    gateway.until(lambda: not gateway.workers(), "the end of the former ones")
    clients = [RawSocket.connect(port) for _ in range(10)]
    for client in clients:
        client.send(b"GET /here HTTP/1.1\r\nHost: test\r\n\r\n")
    gateway.tell(signal.SIGTERM)
    for client in clients:
        with client:
            assert client.read_answer().body == b"here"
    assert gateway.process.wait(TIMEOUT) == 0


def test_a_worker_that_is_told_to_end_gives_streams_the_grace_and_no_more(run, target):
    config = CONFIG.format(workers=1, url=target(streaming).url)
    for grace, again in (("0.2s", False), ("1h", True)):
        gateway = run(config.replace("grace: 2s", f"grace: {grace}")).ready()
        (pid,) = gateway.workers()
        with RawSocket.connect(gateway.port) as stream:
            stream.send(b"GET /stream HTTP/1.1\r\nHost: test\r\n\r\n")
            stream.read_until(b"begun\r\n")
            os.kill(pid, signal.SIGTERM)
            if again:
                gateway.until(lambda pid=pid, gateway=gateway: gateway.workers() not in ([], [pid]), "a successor")
                assert is_alive(pid)
                os.kill(pid, signal.SIGTERM)
            assert not stream.read_to_end().endswith(b"0\r\n\r\n")
        gateway.until(lambda pid=pid: not is_alive(pid), "its end")
        gateway.end()


def test_more_workers_and_at_once_a_listener_less(run, fast):
    gateway = run(CONFIG.format(workers=1, url=fast)).ready()
    two = 'listeners: [{bind: "127.0.0.1:0"}, {bind: "127.0.0.1:0"}]\n'
    for listeners, workers in ((two, 3), ("", 3), (two, 1), ("", 4)):
        gateway.write(listeners + CONFIG.format(workers=workers, url=fast))
        assert gateway.reload()[0] == 200
    gateway.until(lambda: len(gateway.workers()) == 4, "all of them")
    assert not [line for line in gateway.said if "cannot be started" in line]
    assert {get(gateway.port, "/here").status for _ in range(24)} == {200}
    assert gateway.end() == 0


def test_a_reload_while_it_ends_is_refused_in_words(run, target):
    gateway = run(CONFIG.format(workers=1, url=target(streaming).url)).ready()
    with RawSocket.connect(gateway.port) as stream:
        stream.send(b"GET /stream HTTP/1.1\r\nHost: test\r\n\r\n")
        stream.read_until(b"begun\r\n")
        gateway.tell(signal.SIGTERM)
        gateway.until(lambda: gateway.status()["workers"][0]["state"] == "draining", "the drain")
        status, answer = gateway.reload()
        assert (status, [error["message"] for error in answer["errors"]]) == (422, ["the gateway is shutting down"])
    assert gateway.process.wait(TIMEOUT) == 0


def test_a_worker_told_to_end_has_a_successor_before_its_streams_are_done(run, target):
    config = CONFIG.format(workers=1, url=target(streaming).url)
    gateway = run(config.replace("grace: 2s", "grace: 1h")).ready()
    (pid,) = gateway.workers()
    with RawSocket.connect(gateway.port) as stream:
        stream.send(b"GET /stream HTTP/1.1\r\nHost: test\r\n\r\n")
        stream.read_until(b"begun\r\n")
        os.kill(pid, signal.SIGTERM)
        gateway.until(lambda: gateway.workers() not in ([], [pid]), "a successor")
        assert is_alive(pid)
        assert get(gateway.port, "/here").body == b"here"
        assert gateway.reload()[0] == 200


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
