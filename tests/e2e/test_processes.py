"""Supervisor and workers as real processes: deaths, drains, counts, no orphans."""

import json
import os
import re
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest

from tests.kit.process import is_alive
from tests.kit.wire import OK, TIMEOUT, RawSocket, get

CONFIG = """
workers: {workers}
shutdown: {{grace: {grace}}}
services: {{s: {{targets: ["{url}"]}}}}
routes: [{{name: all, match: {{path: "/{{rest...}}"}}, service: s}}]
"""


def requests_total(gateway):
    lines = gateway.admin("GET", "/metrics")[1].splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("gateway_requests_total{"))


def test_all_workers_serve_and_their_counts_add_up(run, fast):
    gateway = run(CONFIG.format(workers=3, grace="5s", url=fast)).ready()
    assert len(gateway.workers()) == 3
    for number in range(60):  # connections of their own: the kernel spreads them
        assert get(gateway.port, f"/{number}").status == 200
    assert requests_total(gateway) == 60
    assert gateway.status()["requests_total"] == 60
    assert gateway.end() == 0


def test_what_secret_variables_hold_is_shown_nowhere(run, fast, tmp_path):
    """In whatever form: as a part of a path, in lower case, as a number."""
    (tmp_path / "door.py").write_text(
        "from gatewright import Plugin, PluginConfig\n"
        "class DoorConfig(PluginConfig):\n    number: int\n    other: int = 0\n"
        "class Door(Plugin[DoorConfig]):\n    pass\n"
    )
    config = f"""
services: {{s: {{targets: ["{fast}"], host: "${{HOOK_SECRET}}.example.com"}}}}
routes:
  - {{name: host, match: {{path: /h, host: "${{HOOK_SECRET}}.example.com"}}, service: s}}
  - name: hook
    match: {{path: "/hook/${{HOOK_SECRET}}/{{rest...}}"}}
    service: s
    rewrite: "/${{HOOK_SECRET}}/{{rest}}"
    plugins:
      - use: ./door.py:Door
        number: ${{DOOR_TOKEN}}
        other: 1${{DOOR_TOKEN}}
"""
    gateway = run(config, environ={"HOOK_SECRET": "Abcdefg", "DOOR_TOKEN": "884122773"}).ready()
    assert get(gateway.port, "/hook/Abcdefg/x").status == 200
    gateway.until(lambda: requests_total(gateway) == 1, "the count")
    for path in ("/config", "/routes", "/routes/host", "/routes/hook", "/services/s", "/metrics"):
        text = json.dumps(gateway.admin("GET", path)[1]).lower()
        assert "abcdefg" not in text
        assert "884122773" not in text
    assert 'http_route="/hook/***hidden***/{rest...}"' in gateway.admin("GET", "/metrics")[1]


def test_a_worker_that_is_killed_is_replaced_and_its_counts_stay(run, fast):
    gateway = run(CONFIG.format(workers=2, grace="5s", url=fast)).ready()
    for number in range(30):
        assert get(gateway.port, f"/{number}").status == 200
    assert requests_total(gateway) == 30
    before = gateway.workers()
    os.kill(before[0], signal.SIGKILL)
    gateway.wait_for(r"worker \d \(pid \d+\) was ended by SIGKILL")
    after = gateway.until(lambda: len(now := gateway.workers()) == 2 and now, "a second worker")
    assert len(set(before) & set(after)) == 1
    for number in range(30):
        assert get(gateway.port, f"/{number}").status == 200
    assert requests_total(gateway) == 60
    assert [worker["restarts"] for worker in gateway.status()["workers"]].count(1) == 1
    assert gateway.end() == 0


def test_the_end_loses_no_request_on_a_connection_that_stands(run, load, fast):
    """Under a load that asks again and again on the same connections. New ones are refused, as they must be."""
    gateway = run(CONFIG.format(workers=2, grace="5s", url=fast)).ready()
    steady = load(gateway.port, rate=600, connections=32)
    gateway.until(lambda: gateway.status()["requests_total"] > 300, "busy")
    assert gateway.end() == 0
    account = steady.end()
    assert {why.partition(":")[0] for why in account["failures"]} == {"cannot connect"}
    assert (account["unanswered"], account["good"] > 300, account["closed_after"] > 0) == (0, True, True)


def test_connections_that_come_while_a_worker_is_being_replaced_wait_and_are_served(run, fast):
    gateway = run(CONFIG.format(workers=1, grace="5s", url=fast)).ready()
    (pid,) = gateway.workers()
    os.kill(pid, signal.SIGKILL)
    gateway.until(lambda: not is_alive(pid), "the worker's end")
    assert get(gateway.port).status == 200
    assert gateway.workers() != [pid]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_the_supervisor(run, fast, number):
    gateway = run(CONFIG.format(workers=2, grace="5s", url=fast)).ready()
    port, workers = gateway.port, gateway.workers()
    with RawSocket.connect(port) as idle:
        gateway.tell(number)
        gateway.process.wait(TIMEOUT)
        gateway.until(lambda: not any(map(is_alive, workers)), "the workers' end")
        assert idle.read_to_end() == b""
    with pytest.raises(OSError, match="refused"):
        RawSocket.connect(port)


def test_a_worker_that_is_blocked_by_a_plugin_does_not_outlive_the_supervisor(run, fast, tmp_path):
    (tmp_path / "stuck.py").write_text(
        "from gatewright import Plugin, PluginConfig\n"
        "class Stuck(Plugin[PluginConfig]):\n"
        "    def on_request(self, exchange):\n        while True: pass\n"
    )
    gateway = run(CONFIG.format(workers=1, grace="1s", url=fast) + 'plugins: [{use: "./stuck.py:Stuck"}]\n').ready()
    (pid,) = gateway.workers()
    with RawSocket.connect(gateway.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        gateway.tell(signal.SIGKILL)
        assert client.read_to_end() == b""
    gateway.until(lambda: not is_alive(pid), "the worker's end")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a stopped process that its parent is gone")
def test_a_worker_that_is_stopped_does_not_outlive_the_supervisor(run, fast):
    gateway = run(CONFIG.format(workers=2, grace="1s", url=fast)).ready()
    workers = gateway.workers()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    gateway.tell(signal.SIGKILL)
    gateway.process.wait(TIMEOUT)
    gateway.until(lambda: not any(map(is_alive, workers)), "the workers' end")


def test_sigterm_to_one_worker_drains_it_and_another_takes_its_place(run, fast, load):
    gateway = run(CONFIG.format(workers=2, grace="5s", url=fast)).ready()
    steady = load(gateway.port, rate=300, connections=8)
    before = gateway.workers()
    for pid in before:
        os.kill(pid, signal.SIGTERM)
        gateway.until(lambda pid=pid: not is_alive(pid), "the worker's end")
    gateway.until(lambda: len(gateway.workers()) == 2, "two workers")
    account = steady.end()
    assert account["failures"] == {}
    assert account["good"] == account["sent"]
    assert not set(before) & set(gateway.workers())


def test_a_worker_that_ends_while_the_supervisor_is_held_up_tells_its_counts(run):
    """More of them than the socket between the two holds."""
    name, methods = "r" * 50, ["GET", "POST", "PUT", "PATCH", "DELETE"]
    routes = "".join(
        f"  - {{name: {name}{each}, match: {{path: /{each}}}, respond: {{body: x}}}}\n" for each in range(400)
    )
    gateway = run(f"workers: 1\nroutes:\n{routes}").ready()
    port, (pid,) = gateway.port, gateway.workers()
    gateway.tell(signal.SIGSTOP)
    with RawSocket.connect(port) as client:
        for path in range(400):
            heads = [f"{method} /{path} HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n" for method in methods]
            client.send("".join(heads).encode())
            assert [client.read_answer().status for _ in methods] == [200] * 5
    os.kill(pid, signal.SIGTERM)
    threading.Event().wait(2.0)  # nothing happens in all that time: that is what it is about
    gateway.tell(signal.SIGCONT)
    gateway.until(lambda: requests_total(gateway) == 2000, "the counts")
    assert gateway.end() == 0


def test_a_worker_that_dies_at_once_again_and_again_does_not_keep_the_machine_busy(run, fast, tmp_path):
    gateway = run(CONFIG.format(workers=2, grace="1s", url=fast) + 'plugins: [{use: "./bad.py:Bad"}]\n')
    assert gateway.process.wait(TIMEOUT) == 1  # no such file: an error, not a loop
    (tmp_path / "bad.py").write_text(
        "import os\nfrom gatewright import Plugin, PluginConfig\n"
        "class Bad(Plugin[PluginConfig]):\n"
        "    def on_request(self, exchange):\n        os._exit(7)\n"
    )
    gateway = run(CONFIG.format(workers=1, grace="1s", url=fast) + 'plugins: [{use: "./bad.py:Bad"}]\n').ready()
    for deaths in range(1, 4):
        gateway.until(gateway.workers, "a worker")
        with RawSocket.connect(gateway.port) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            assert client.read_to_end() == b""
        gateway.wait_for("ended with exit code 7", deaths)
    assert gateway.admin("GET", "/healthz")[0] == 200
    assert gateway.end() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_ctrl_c_in_a_terminal_reaches_all_and_still_drains(run, target, number):
    here, go = threading.Event(), threading.Event()

    def script(session):
        session.read_request()
        here.set()
        assert go.wait(TIMEOUT)
        session.send(OK)

    gateway = run(CONFIG.format(workers=2, grace="20s", url=target(script).url), start_new_session=True).ready()
    with RawSocket.connect(gateway.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        assert here.wait(TIMEOUT)
        os.killpg(gateway.process.pid, number)
        gateway.wait_for("finishing what is under way")
        go.set()
        assert client.read_answer().status == 200
    assert gateway.process.wait(TIMEOUT) == 0


def test_readiness_fails_before_the_listeners_close(run, fast):
    config = CONFIG.format(workers=1, grace="5s", url=fast).replace("{grace", "{delay: 2s, grace")
    gateway = run(config).ready()
    assert gateway.admin("GET", "/readyz")[0] == 200
    gateway.tell(signal.SIGTERM)
    gateway.wait_for("finishing")
    assert gateway.admin("GET", "/readyz")[0] == 503
    assert gateway.admin("GET", "/healthz")[0] == 200
    assert get(gateway.port).status == 200
    assert gateway.process.wait(TIMEOUT) == 0


def test_what_is_not_done_at_the_deadline_is_told_so(run, target):
    here = threading.Event()

    def script(session):
        session.read_request()
        here.set()
        session.read_to_end()

    gateway = run(CONFIG.format(workers=1, grace="500ms", url=target(script).url)).ready()
    with RawSocket.connect(gateway.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        assert here.wait(TIMEOUT)
        gateway.tell(signal.SIGTERM)
        answer = client.read_answer()
        assert (answer.status, json.loads(answer.body)["reason"]) == (503, "draining")
    assert gateway.process.wait(TIMEOUT) == 0


def test_systemd_is_told_and_its_sockets_are_used(run, fast, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as given, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(TIMEOUT)
        port = given.getsockname()[1]
        config = f'listeners: [{{bind: "127.0.0.1:{port}"}}]\n' + CONFIG.format(workers=2, grace="5s", url=fast)

        activate = (  # what systemd does between fork and exec
            f"import os, sys; os.dup2({given.fileno()}, 3); os.environ['LISTEN_PID'] = str(os.getpid()); "
            "os.execv(sys.argv[1], sys.argv[1:])"
        )
        gateway = run(
            config,
            environ={"LISTEN_FDS": "1", "NOTIFY_SOCKET": str(tmp_path / "notify")},
            wrapper=[sys.executable, "-c", activate],
            pass_fds=[given.fileno()],
        )
        with RawSocket.connect(port) as early:  # before it runs: systemd listens for it
            early.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            assert early.read_answer().status == 200
        assert manager.recv(1000).startswith(b"READY=1")
        for pid in gateway.workers():  # all of this is the supervisor's alone
            assert not re.search(rb"NOTIFY_SOCKET|LISTEN_", Path(f"/proc/{pid}/environ").read_bytes())
        gateway.ready().tell(signal.SIGHUP)
        assert manager.recv(1000).startswith(b"RELOADING=1")
        assert manager.recv(1000).startswith(b"READY=1")
        gateway.tell(signal.SIGTERM)
        assert manager.recv(1000).startswith(b"STOPPING=1")
        assert gateway.process.wait(TIMEOUT) == 0


def test_more_sockets_than_the_soft_limit_of_open_files_are_had(run, fast):
    many = "listeners: [" + ", ".join(['{bind: "127.0.0.1:0"}'] * 40) + "]\n"
    limited = ["sh", "-c", 'ulimit -S -n 64; exec "$0" "$@"']
    gateway = run(many + CONFIG.format(workers=2, grace="5s", url=fast), wrapper=limited).ready()
    assert get(gateway.ports[-1]).status == 200
