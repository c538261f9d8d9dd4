"""What is in deploy/ works: each file is given to the program that reads it, and nginx serves in front of a gateway."""

import configparser
import re
import shlex
import shutil
import ssl
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import trustme
import yaml

from gatewright.control.process_models import AdminConfig, ShutdownConfig
from gatewright.supervisor import crew
from tests.kit.server_process import free_ports, program
from tests.kit.servers import Nginx, nginx
from tests.kit.wire import RawSocket, TargetSession, answer_all, get

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PAGE = (ROOT / "docs" / "deployment.md").read_text()


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=50, check=False)


def seconds_to_end() -> float:
    """Return how long the gateway takes to end, at most, as it is configured by default."""
    shutdown = ShutdownConfig()
    return shutdown.delay + shutdown.grace + crew._OVERDUE


# systemd


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units in a folder, with the programs of this environment."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for unit in (DEPLOY / "systemd").iterdir():
        text = unit.read_text().replace("/opt/gatewright/bin/gatewright", f"{sys.prefix}/bin/gatewright")
        (tmp_path / unit.name).write_text(text)
    return tmp_path


def test_systemd_finds_nothing_wrong_with_the_units(units: Path) -> None:
    checked = run("systemd-analyze", "verify", units / "gatewright.service", units / "gatewright.socket")
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_service_is_locked_up(units: Path) -> None:
    judged = run("systemd-analyze", "security", "--offline=true", "--threshold=15", units / "gatewright.service")
    assert judged.returncode == 0, judged.stdout[-200:]


def test_systemd_waits_until_the_gateway_has_ended() -> None:
    text = (DEPLOY / "systemd" / "gatewright.service").read_text()
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)s$", text, re.MULTILINE)
    assert int(stop) > seconds_to_end()


# supervisord


def test_supervisord_waits_until_the_gateway_has_ended() -> None:
    parser = configparser.RawConfigParser()
    parser.read_string((DEPLOY / "supervisor" / "gatewright.conf").read_text())
    settings = parser["program:gatewright"]
    assert shlex.split(settings["command"])[1:] == ["run", "/etc/gatewright/gateway.yaml"]
    assert settings["stopsignal"] == "TERM"
    assert settings.getint("stopwaitsecs") > seconds_to_end()
    assert not settings.getboolean("stopasgroup")  # workers are the gateway's own affair


# Prometheus


def test_prometheus_takes_its_configuration() -> None:
    config = DEPLOY / "prometheus" / "prometheus.yml"
    checked = run(program("promtool"), "check", "config", config)
    assert (checked.returncode, "SUCCESS" in checked.stdout) == (0, True), checked.stderr
    (job,) = yaml.safe_load(config.read_text())["scrape_configs"]
    assert job["static_configs"][0]["targets"] == [str(AdminConfig().bind)]


# nginx


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def front(folder: Path, authority: trustme.CA, gateway_port: int, plain_port: int) -> str:
    """Return the nginx configuration, with this test's ports and certificate in the places of the real ones."""
    certificate = authority.issue_cert("api.example.com")
    certificate.private_key_pem.write_to_path(str(folder / "privkey.pem"))
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(str(folder / "fullchain.pem"), append=True)
    text = (DEPLOY / "nginx" / "gatewright.conf").read_text()
    for old, new in (
        ("listen 80;", f"listen 127.0.0.1:{plain_port};"),
        ("listen 443 ", "listen 127.0.0.1:@PORT@ "),
        ("/etc/ssl/gatewright", str(folder)),
        ("server 127.0.0.1:8080;", f"server 127.0.0.1:{gateway_port};"),
    ):
        assert text.count(old) >= 1, old
        text = text.replace(old, new)
    return text


def test_nginx_finds_nothing_wrong(tmp_path: Path, authority: trustme.CA) -> None:
    port, plain_port = free_ports(2)
    command = Nginx(front(tmp_path, authority, 8080, plain_port), tmp_path, [port]).command()
    checked = run(*command, "-t")
    assert checked.returncode == 0, checked.stderr
    assert "warn" not in checked.stderr


def connect(port: int, authority: trustme.CA) -> RawSocket:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return RawSocket.connect(port, context, "api.example.com")


def tunnel_or_answer(session: TargetSession) -> None:
    """Accept a WebSocket and echo what comes in it; answer anything else."""
    head = session.read_head()
    if b"upgrade: websocket" not in head.lower():
        session.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        return
    session.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
    session.send(b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
    session.send(session.read_exactly(5))


def test_nginx_in_front(stack, gateway, target, authority: trustme.CA, tmp_path: Path) -> None:
    upstream = target(tunnel_or_answer)
    running = gateway(
        'listeners: [{bind: "127.0.0.1:0", trusted_proxies: [127.0.0.1/32]}]\n'
        f'services: {{s: {{targets: ["{upstream.url}"]}}}}\n'
        "routes: [{name: all, match: {path: /*}, service: s}]\n"
    )
    (plain_port,) = free_ports(1)
    server = stack.enter_context(nginx(front(tmp_path, authority, running.port, plain_port)))

    moved = get(plain_port, "/a?b=c", "X-Unused: 1\r\n")
    assert (moved.status, moved.get("location")) == (308, "https://test/a?b=c")

    with connect(server.port, authority) as client:
        lies = b"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: http\r\nForwarded: for=6.6.6.6\r\n"
        client.send(b"GET /a HTTP/1.1\r\nHost: api.example.com\r\n" + lies + b"\r\n")
        answer = client.read_answer("GET")
    assert (answer.status, answer.body) == (200, b"ok")
    assert answer.get("strict-transport-security") == "max-age=31536000"
    seen = upstream.received.lower()
    assert b"host: api.example.com\r\n" in seen
    assert b"x-forwarded-for: 127.0.0.1" in seen
    assert b"x-forwarded-proto: https\r\n" in seen
    assert b"x-forwarded-host: api.example.com\r\n" in seen
    assert b"6.6.6.6" not in seen

    with connect(server.port, authority) as client:
        client.send(b"GET /ws HTTP/1.1\r\nHost: api.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
        client.send(b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        assert b" 101 " in client.read_until(b"\r\n\r\n")
        client.send(b"hello")
        assert client.read_exactly(5) == b"hello"


def test_the_listener_of_the_page_believes_nginx(gateway, target) -> None:
    (config,) = [block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "trusted_proxies" in block]
    upstream = target(answer_all())
    config = config.replace("127.0.0.1:8080", "127.0.0.1:0").replace("http://10.0.0.1:8001", upstream.url)
    running = gateway(config)
    get(running.port, "/", "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n")
    assert b"x-forwarded-for: 203.0.113.7" in upstream.received.lower()
    assert b"x-forwarded-proto: https\r\n" in upstream.received.lower()


# The container


def instructions() -> list[tuple[str, str]]:
    """Return the lines of the container file as (word, rest)."""
    text = (DEPLOY / "container" / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def test_the_container_is_made_of_what_is_there_and_runs_without_privileges() -> None:
    lines = instructions()
    ignored = (DEPLOY / "container" / "Containerfile.dockerignore").read_text().splitlines()
    sent = [line[1:] for line in ignored if line.startswith("!")]
    copied = [name for word, rest in lines if word == "COPY" and "--from" not in rest for name in rest.split()[:-1]]
    assert copied
    for name in copied:
        assert (ROOT / name).exists()
        assert any(fnmatch(name.removeprefix("./"), pattern) for pattern in sent), name
    words = [word for word, _ in lines]
    assert ("USER", "10001:10001") in lines
    assert words.index("USER") > len(words) - 1 - words[::-1].index("FROM")
    assert ("CMD", '["run", "/etc/gatewright/gateway.yaml"]') in lines


# The page


def test_the_page_and_the_folder_name_the_same_files() -> None:
    named = set(re.findall(r"deploy/[\w/.-]*\w", PAGE))
    files = {str(path.relative_to(ROOT)) for path in DEPLOY.rglob("*") if path.is_file()}
    assert {name for name in named if not (ROOT / name).exists()} == set()
    assert {name for name in files if name not in named and not name.endswith("ignore")} == set()
