"""Reloads of a real gateway: by signal, file and admin API, under load, with everything that can be wrong with them."""

import os
import signal
import socket
import ssl

import pytest
import trustme

from tests.kit.process import echo
from tests.kit.wire import RawSocket, get

CONFIG = """
workers: {workers}
services: {{s: {{targets: ["{url}"]}}}}
routes: [{{name: all, match: {{path: "/{{rest...}}"}}, service: s}}]
"""
TAGGER = """
from gatewright import Plugin, PluginConfig
class Tagger(Plugin[PluginConfig]):
    def on_response(self, exchange, response):
        response.headers.set("x-tag", "{tag}")
"""


def facts(pid):
    """What must not grow: resident KiB, descriptors, threads."""
    with open(f"/proc/{pid}/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines["VmRSS"].split()[0]), len(os.listdir(f"/proc/{pid}/fd")), int(lines["Threads"])


@pytest.mark.timeout(150)
def test_200_reloads_under_load_lose_nothing_and_leak_nothing(run, load, fast, tmp_path):
    with echo("other") as other:
        (tmp_path / "tagger.py").write_text(TAGGER.format(tag="0"))
        plugin = 'plugins: [{use: "./tagger.py:Tagger"}]\n'
        configs = [
            CONFIG.format(workers=2, url=fast) + plugin,
            CONFIG.format(workers=2, url=f"http://127.0.0.1:{other}") + plugin,
        ]
        gateway = run(configs[0]).ready()
        workers = gateway.workers()
        steady = load(gateway.port, rate=2000, connections=32)
        before = {}
        for number in range(200):
            (tmp_path / "tagger.py").write_text(TAGGER.format(tag=number))
            gateway.write(configs[number % 2])
            status, answer = gateway.reload()
            assert status == 200, answer
            if number == 40:
                before = {pid: facts(pid) for pid in [*workers, gateway.process.pid]}
        account = steady.end()
        after = {pid: facts(pid) for pid in before}
        assert account["failures"] == {}
        assert account["good"] == account["sent"] > 2000
        assert set(account["tags"]) == {"echo", "other"}
        assert account["closed_after"] == account["closed_idle"] == 0  # no connection was given up
        assert gateway.workers() == workers
        assert dict(get(gateway.port).headers)["x-tag"] == "199"
        for pid, (memory, files, threads) in before.items():
            assert after[pid][0] < memory * 1.1 + 8192, (before, after)  # a burst of connections takes 6 MiB
            assert after[pid][1] <= files + 80  # connections come and go
            assert after[pid][2] <= threads + 1
        assert gateway.end() == 0


def listening_sockets(port):
    """The sockets of this machine that listen at a port of IPv4."""
    with open("/proc/net/tcp") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    return [row for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port]


BAD = {
    "no YAML": ("services: [", "not valid YAML"),
    "an unknown key": ("servces: {}\n", "servces"),
    "a route to a missing service": ("routes: [{name: a, match: {path: /a}, service: nobody}]\n", "nobody"),
    "a missing TLS file": ('listeners: [{bind: "127.0.0.1:0", tls: {cert: no.pem, key: no.pem}}]\n', "no.pem"),
    "a plugin with a syntax error": ('plugins: [{use: "./broken.py:X"}]\n', "broken.py"),
    "a plugin that exits": ('plugins: [{use: "./exits.py:X"}]\n', "exits.py"),
    "a plugin that does not start": ('plugins: [{use: "./refuses.py:X"}]\n', "no database"),
    "bad settings of a plugin": ("plugins: [{headers: {request: {sett: {}}}}]\n", "sett"),
    "an address in use": ('listeners: [{bind: "127.0.0.1:TAKEN"}]\n', "in use"),
    "a half-written file": ('services: {s: {targets: ["http://127.0', "line"),
}


@pytest.mark.parametrize("way", ["signal", "api", "text"])
def test_a_bad_configuration_changes_nothing_and_says_why(run, fast, tmp_path, way):
    (tmp_path / "broken.py").write_text("class X(:\n")
    (tmp_path / "exits.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "refuses.py").write_text(
        "from gatewright import Plugin, PluginConfig\n"
        "class X(Plugin[PluginConfig]):\n    async def start(self):\n        raise OSError('no database')\n"
    )
    gateway = run(CONFIG.format(workers=2, url=fast)).ready()
    version, workers = gateway.status()["config"]["version"], gateway.workers()
    with socket.create_server(("127.0.0.1", 0)) as taken, RawSocket.connect(gateway.port) as kept:
        for count, (what, (text, said)) in enumerate(BAD.items(), 1):
            text = text.replace("TAKEN", str(taken.getsockname()[1]))
            text = 'admin: {bind: "127.0.0.1:0"}\n' + text
            if way == "text":
                status, answer = gateway.admin("PUT", "/config", text, {"If-Match": "*"})
            else:
                gateway.file.write_text(text)
            if way == "signal":
                gateway.tell(signal.SIGHUP)
                gateway.wait_for("the configuration was not changed", count)
                status, answer = 422, gateway.status()["last_reload"]
            elif way == "api":
                status, answer = gateway.reload()
            assert status == 422, (what, answer)
            assert said in str(answer["errors"]), (what, answer)
            assert gateway.status()["config"]["version"] == version
            kept.send(b"GET /kept HTTP/1.1\r\nHost: test\r\n\r\n")
            assert kept.read_answer().body == b"/kept echo"
    assert gateway.workers() == workers
    gateway.write(CONFIG.format(workers=2, url=fast) + "limits: {body: 1MiB}\n")
    assert gateway.reload()[0] == 200
    assert gateway.status()["config"]["version"] != version


def test_files_that_change_are_seen(run, fast, tmp_path):
    with echo("other") as other:
        (tmp_path / "tagger.py").write_text(TAGGER.format(tag="one"))
        config = 'watch: true\nplugins: [{use: "./tagger.py:Tagger"}]\n' + CONFIG.format(workers=2, url="${TARGET}")
        (tmp_path / ".env").write_text(f"TARGET={fast}\n")
        gateway = run(config).ready()
        assert dict(get(gateway.port, "/").headers)["x-tag"] == "one"
        (tmp_path / "tagger.py").write_text(TAGGER.format(tag="two"))
        gateway.wait_for(r"configuration \w+ is in use \(file\)", 1)
        assert dict(get(gateway.port, "/").headers)["x-tag"] == "two"
        (tmp_path / ".env").write_text(f"TARGET=http://127.0.0.1:{other}\n")
        gateway.wait_for(r"configuration \w+ is in use \(file\)", 2)
        assert get(gateway.port, "/x").body == b"/x other"
        (tmp_path / "tagger.py").write_text("class Tagger(:\n")
        gateway.wait_for("the configuration was not changed")
        assert dict(get(gateway.port, "/").headers)["x-tag"] == "two"
        (tmp_path / "tagger.py").write_text(TAGGER.format(tag="three"))
        gateway.wait_for(r"configuration \w+ is in use \(file\)", 3)
        assert dict(get(gateway.port, "/").headers)["x-tag"] == "three"


def test_a_reload_tells_whether_there_was_anything_new(run, fast, tmp_path):
    (tmp_path / "tagger.py").write_text(TAGGER.format(tag="one"))
    gateway = run('plugins: [{use: "./tagger.py:Tagger"}]\n' + CONFIG.format(workers=1, url=fast)).ready()
    assert gateway.reload()[1]["changed"] is False
    (tmp_path / "tagger.py").write_text(TAGGER.format(tag="another"))
    assert gateway.reload()[1]["changed"] is True
    assert dict(get(gateway.port, "/").headers)["x-tag"] == "another"
    assert gateway.reload()[1]["changed"] is False


def test_listeners_come_go_and_stay(run, fast, tmp_path):
    authority = trustme.CA()
    certificates = [authority.issue_cert("localhost") for _ in range(2)]

    def put(certificate):
        certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")

    put(certificates[0])
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        first, second = one.getsockname()[1], two.getsockname()[1]
    tls = f'{{bind: "127.0.0.1:{second}", tls: {{cert: cert.pem, key: key.pem}}}}'
    base = CONFIG.format(workers=2, url=fast)
    gateway = run(f'listeners: [{{bind: "127.0.0.1:{first}"}}]\n' + base).ready()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with RawSocket.connect(first) as kept:
        gateway.write(f'listeners: [{{bind: "127.0.0.1:{first}"}}, {tls}]\n' + base)
        assert gateway.reload()[0] == 200
        with RawSocket.connect(second, tls=context) as secure:
            serial = secure.sock.getpeercert()["serialNumber"]
            put(certificates[1])
            assert gateway.reload()[0] == 200
            with RawSocket.connect(second, tls=context) as renewed:
                assert renewed.sock.getpeercert()["serialNumber"] != serial
            secure.send(b"GET /old HTTP/1.1\r\nHost: test\r\n\r\n")
            assert secure.read_answer().body == b"/old echo"
            kept.send(b"GET /kept HTTP/1.1\r\nHost: test\r\n\r\n")
            assert kept.read_answer().body == b"/kept echo"
            gateway.write(f"listeners: [{tls}]\n" + base)
            assert gateway.reload()[0] == 200
            secure.send(b"GET /still HTTP/1.1\r\nHost: test\r\n\r\n")
            assert secure.read_answer().body == b"/still echo"
        assert kept.read_to_end() == b""
    with pytest.raises(OSError, match="refused"):
        RawSocket.connect(first)
    assert gateway.end() == 0


def test_the_number_of_workers_changes_without_a_lost_request(run, load, fast):
    gateway = run(CONFIG.format(workers=1, url=fast)).ready()
    steady = load(gateway.port, rate=500, connections=16)
    for workers in (3, 1, 4, 2):
        gateway.write(CONFIG.format(workers=workers, url=fast))
        assert gateway.reload()[0] == 200
        gateway.until(lambda workers=workers: len(gateway.workers()) == workers, f"{workers} workers")
        for number in range(20):
            assert get(gateway.port, f"/n{number}").status == 200
        assert len(listening_sockets(gateway.port)) >= workers  # one for each
    account = steady.end()
    assert account["failures"] == {}
    assert account["good"] == account["sent"]
    assert gateway.end() == 0


def test_a_listener_moves_to_an_address_that_overlaps(run, load, fast):
    """From 127.0.0.1 to 0.0.0.0, to a name and back: for who connects to 127.0.0.1 nothing happens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def config(host):
        return f'listeners: [{{bind: "{host}:{port}"}}]\n' + CONFIG.format(workers=2, url=fast)

    gateway = run(config("127.0.0.1")).ready()
    steady = load(port, rate=500, connections=16)
    for host in ("0.0.0.0", "localhost", "127.0.0.1", "0.0.0.0"):
        gateway.write(config(host))
        status, answer = gateway.reload()
        assert status == 200, answer
        for number in range(20):
            assert get(port, f"/n{number}").status == 200
    account = steady.end()
    assert account["failures"] == {}
    assert account["good"] == account["sent"]
    twice = ", ".join(f'{{bind: "{host}:{port}"}}' for host in ("127.0.0.1", "localhost"))
    gateway.write(f"listeners: [{twice}]\n" + CONFIG.format(workers=2, url=fast))
    status, answer = gateway.reload()
    assert status == 422
    assert [error["path"] for error in answer["errors"]] == ["listeners[1].bind"]
    assert "listeners[0] has that address as well" in answer["errors"][0]["message"]
    assert get(port).status == 200
    assert gateway.end() == 0


def test_what_the_api_sets_of_targets_reaches_all_workers_and_outlives_reload_and_replacement(run, fast):
    with echo("other") as other:
        both = f'services: {{s: {{targets: ["{fast}", "http://127.0.0.1:{other}"]}}}}\n'
        config = "workers: 2\n" + both + CONFIG.format(workers=2, url=fast).partition("}}\n")[2]
        config = "workers: 2\n" + both + 'routes: [{name: all, match: {path: "/{rest...}"}, service: s}]\n'
        gateway = run(config).ready()

        def tags():
            return {get(gateway.port, f"/{number}").body.split()[1] for number in range(24)}

        assert tags() == {b"echo", b"other"}
        name = fast.removeprefix("http://")
        status, view = gateway.admin("PATCH", f"/services/s/targets/{name}", {"draining": True})
        assert (status, view["state"]) == (200, "draining")
        gateway.until(lambda: tags() == {b"other"}, "the drain")
        gateway.write(config + "limits: {body: 2MiB}\n")
        assert gateway.reload()[0] == 200
        assert tags() == {b"other"}
        before = gateway.workers()
        os.kill(before[0], signal.SIGKILL)
        gateway.until(lambda: len(now := gateway.workers()) == 2 and now != before, "a new worker")
        assert tags() == {b"other"}
        assert gateway.admin("PATCH", f"/services/s/targets/{name}", {"draining": False})[0] == 200
        gateway.until(lambda: tags() == {b"echo", b"other"}, "its return")


def test_a_configuration_is_applied_saved_and_guarded_by_the_api(run, fast):
    gateway = run(CONFIG.format(workers=1, url=fast)).ready()
    version = gateway.status()["config"]["version"]
    on_disk = gateway.file.read_text()
    text = on_disk + "limits: {body: 3MiB}\n"
    assert gateway.admin("PUT", "/config", text, {"If-Match": '"other"'})[0] == 412
    status, answer = gateway.admin("PUT", "/config", text + "foo: 1\n", {"If-Match": version})
    assert (status, [error["file"] for error in answer["errors"]]) == (422, ["request body"])
    assert gateway.status()["last_reload"]["errors"][0]["file"] == "request body"
    assert gateway.admin("PUT", "/config", text, {"If-Match": version})[0] == 200
    config = gateway.status()["config"]
    assert (config["source"], config["saved"]) == ("api", False)
    assert gateway.file.read_text() == on_disk
    mode = gateway.file.stat().st_mode
    saved = text + "workers: 1\n".replace("workers: 1\n", "# saved\n")
    assert gateway.admin("PUT", "/config?save=true", saved, {"If-Match": config["version"]})[0] == 200
    assert gateway.file.read_text() == saved
    assert gateway.file.stat().st_mode == mode
    assert gateway.status()["config"]["saved"] is True
    gateway.file.write_text(saved + "# edited by hand\n")
    assert gateway.status()["config"]["saved"] is False
    status, answer = gateway.admin("PUT", "/config?save=true", saved, {"If-Match": "*"})
    assert (status, gateway.file.read_text()) == (422, saved + "# edited by hand\n"), answer
    assert answer["errors"][0]["file"] == str(gateway.file)
    gateway.file.write_text("services: [")
    if os.geteuid() == 0:
        os.chown(gateway.file, 4321, 4322)
    assert gateway.reload()[0] == 422
    assert gateway.admin("PUT", "/config?save=true", saved, {"If-Match": "*"})[0] == 200, "a broken file is mended"
    assert (gateway.file.read_text(), gateway.status()["config"]["saved"]) == (saved, True)
    if os.geteuid() == 0:
        assert (gateway.file.stat().st_uid, gateway.file.stat().st_gid) == (4321, 4322)
    many = saved + "".join(f"unknown{number}: 1\n" for number in range(5000))
    status, answer = gateway.admin("PUT", "/config", many, {"If-Match": "*"})
    assert (status, len(answer["errors"]), answer["errors"][-1]["message"]) == (422, 101, "and 4900 more errors")
    assert gateway.end() == 0
