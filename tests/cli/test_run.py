"""`gatewright run`: says where it listens, finishes what it has begun, and says in one line why it cannot start."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.kit.wire import OK, TIMEOUT, RawSocket, get

CONFIG = """
listeners: [{{bind: "127.0.0.1:{port}"}}]
access_log: {{destination: access.log}}
services: {{s: {{targets: ["{url}"]}}}}
routes: [{{name: all, match: {{path: "/{{rest...}}"}}, service: s}}]
"""


class Command:
    """A running command; what it says on stderr is read line by line."""

    def __init__(self, folder, config, stderr=subprocess.PIPE, **environ):
        (folder / "g.yaml").write_text(f"admin: false\nwatch: false\n{config}")
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from gatewright.cli import main; main()", "run", "g.yaml"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, **environ},
        )

    def line(self):
        return self.process.stderr.readline()

    def port(self):
        return int(re.fullmatch(r"gatewright: listening on http://127\.0\.0\.1:(\d+)\n", self.line()).group(1))

    def end(self):
        """Return exit code and the rest of stderr."""
        out, err = self.process.communicate(timeout=TIMEOUT)
        assert out == ""
        return self.process.returncode, err


@pytest.fixture
def run(tmp_path):
    started = []

    def start(config, folder=tmp_path, **options):
        started.append(Command(folder, config, **options))
        return started[-1]

    yield start
    for command in started:
        if command.process.poll() is None:
            command.process.kill()
        command.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_when_what_is_under_way_is_done(run, target, tmp_path, number):
    here, go = threading.Event(), threading.Event()

    def script(session):
        session.read_request()
        here.set()
        assert go.wait(TIMEOUT)
        session.send(OK)

    command = run(CONFIG.format(port=0, url=target(script).url))
    port = command.port()
    with RawSocket.connect(port) as client, RawSocket.connect(port) as idle:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        assert here.wait(TIMEOUT)
        command.process.send_signal(number)
        assert "finishing what is under way" in command.line()
        assert idle.read_to_end() == b""
        with pytest.raises(OSError, match="refused"):
            RawSocket.connect(port)
        go.set()
        answer = client.read_answer()
        assert (answer.status, answer.get("connection")) == (200, "close")
        assert client.read_to_end() == b""
    assert command.end() == (0, "")
    assert '"status":200' in (tmp_path / "access.log").read_text()


def test_a_second_signal_ends_it_at_once(run, target, tmp_path):
    here = threading.Event()

    def script(session):
        session.read_request()
        here.set()
        session.read_to_end()

    command = run(CONFIG.format(port=0, url=target(script).url))
    with RawSocket.connect(command.port()) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        assert here.wait(TIMEOUT)
        command.process.send_signal(signal.SIGTERM)
        assert "finishing" in command.line()
        command.process.send_signal(signal.SIGTERM)
        assert client.read_answer().status == 503
        assert client.read_to_end() == b""
    code, rest = command.end()
    assert code == 0
    assert "Traceback" not in rest
    assert (tmp_path / "access.log").read_text().count("\n") == 1


def test_a_port_in_use_is_one_line_and_exit_1(run, target):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code, said = run(CONFIG.format(port=port, url=target().url)).end()
    assert code == 1
    assert said == (
        f"g.yaml:4:20: listeners[0].bind: cannot listen on 127.0.0.1:{port}: address already in use\n"
        "gatewright: g.yaml: 1 error\n"
    )


def test_a_bad_certificate_is_one_line_and_exit_1(run, tmp_path):
    (tmp_path / "bad.pem").write_text("no certificate")
    code, said = run('listeners: [{bind: "127.0.0.1:0", tls: {cert: bad.pem, key: bad.pem}}]\n').end()
    assert code == 1
    assert said.count("\n") == 1
    assert "certificate" in said


def test_a_plugin_that_does_not_start_is_one_line_and_exit_1(run, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from gatewright import Plugin, PluginConfig\n"
        "class Mine(Plugin[PluginConfig]):\n    async def start(self):\n        raise OSError('no database')\n"
    )
    code, said = run('listeners: [{bind: "127.0.0.1:0"}]\nplugins: [use: "./mine.py:Mine"]\n').end()
    assert (code, said.count("\n")) == (1, 1)
    assert "no database" in said


def test_two_gateways_do_not_share_a_port_by_accident(run, target):
    url = target().url
    port = run(CONFIG.format(port=0, url=url)).port()
    assert get(port).status == 200
    code, said = run(CONFIG.format(port=port, url=url)).end()
    assert (code, "in use" in said) == (1, True)


@pytest.mark.parametrize("reader", ["stalls", "is gone"])
def test_who_reads_stderr_holds_up_neither_start_nor_end(run, tmp_path, reader):
    reading, writing = os.pipe()
    if reader == "is gone":
        os.close(reading)
    else:
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, b"x" * 512)
        os.set_blocking(writing, True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(TIMEOUT)
        config = 'listeners: [{bind: "127.0.0.1:0"}]\nroutes: []\n'
        command = run(config, stderr=writing, NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert manager.recv(1000).startswith(b"READY=1")
        command.process.send_signal(signal.SIGTERM)
        assert command.process.wait(TIMEOUT) == 0
    for fd in (writing, *([reading] if reader == "stalls" else [])):
        os.close(fd)


def test_a_folder_whose_name_is_no_text_is_one_line_and_exit_1(run, tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    code, said = run('listeners: [{bind: "127.0.0.1:0"}]\nroutes: []\n', folder=folder).end()
    assert (code, said) == (1, "gatewright: g.yaml: its name, or that of its folder, is no UTF-8 text\n")


@pytest.mark.parametrize("passed", [b"", b"a file"])
def test_sockets_of_systemd_that_are_none_are_one_line_and_exit_1(tmp_path, passed):
    (tmp_path / "g.yaml").write_text('listeners: [{bind: "127.0.0.1:0"}]\nroutes: []\n')
    activate = "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); "
    if passed:
        activate += "os.dup2(os.open('g.yaml', os.O_RDONLY), 3); "
    activate += "from gatewright.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", activate, "run", "g.yaml"],
        cwd=tmp_path,
        env={**os.environ, "LISTEN_FDS": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "gatewright: LISTEN_FDS is 1, but descriptor 3 is no socket that was passed on\n"


def test_ctrl_c_while_modules_are_loaded_shows_no_traceback(tmp_path):
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-c", "from gatewright.cli import main; main()", "run"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
