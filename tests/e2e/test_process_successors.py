"""Who comes after a worker that dies, is told to end or cannot be started: what it runs, and who is served meanwhile."""

import os
import signal
import ssl

import pytest
import trustme

from tests.kit.faults import CONFIG, PICKY, PLUGIN, USE, streaming
from tests.kit.process import is_alive
from tests.kit.wire import TIMEOUT, RawSocket, get


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
