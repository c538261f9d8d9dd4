"""`run_all.sh --full`: Redis, Consul and Jaeger beside the demo, or those of the user's own."""

import json
import shutil
import socket

from tests.kit.run_all import Demo, paste
from tests.kit.server_process import fetch, program


def test_everything_is_started_wired_and_stopped(demo: Demo) -> None:
    for name in ("redis-server", "consul", "jaeger"):
        program(name)
    demo.use_servers()
    started = demo.run("--full", "-d")
    assert started.returncode == 0, started.stderr
    assert all(demo.listening())
    if shutil.which("curl"):
        answers = paste(started)
        assert answers[5].split() == ["200", "200", "429"]
        assert json.loads(answers[6])["status"] == "healthy"
    for name in ("service-a", "service-b"):
        assert fetch(f"http://127.0.0.1:{demo.env['CONSUL_PORT']}/v1/health/service/{name}?passing=true")
    assert fetch(f"http://127.0.0.1:{demo.env['JAEGER_UI_PORT']}/api/services")
    with socket.create_connection(("127.0.0.1", int(demo.env["REDIS_PORT"])), timeout=5) as redis:
        redis.sendall(b"DBSIZE\r\n")
        assert int(redis.makefile("rb").readline()[1:]) > 0 or not shutil.which("curl")
    assert demo.run("status").stdout.count(" runs ") == 6

    stopped = demo.run("stop")
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert not any(demo.listening())
    assert demo.left_behind() == []


def test_a_server_that_cannot_be_installed_is_one_clear_line(demo: Demo) -> None:
    demo.use_servers()
    (demo.checkout / "scripts/servers.sh").write_text("#!/bin/sh\necho 'servers: no way' >&2\nexit 1\n")
    result = demo.run("--full", "-d")
    assert (result.returncode, result.stderr) == (1, "servers: no way\n")
    assert not any(demo.listening())
    assert demo.left_behind() == []


def test_servers_of_the_users_own_are_not_started(demo: Demo) -> None:
    demo.use_servers()
    (demo.checkout / "scripts/servers.sh").write_text('#!/bin/sh\necho "servers: $*" >&2\nexit 1\n')
    own = {"REDIS_URL": "redis://127.0.0.1:1", "JAEGER_HOST": "127.0.0.1"}
    assert demo.run("--full", "-d", **own).stderr == "servers: consul\n"


def test_the_consul_of_full_knows_the_demo_services_only(demo: Demo) -> None:
    demo.use_servers()
    result = demo.run("--full", "-d", SERVICE_A_URL="http://127.0.0.1:1")
    assert result.returncode == 1
    assert result.stderr.startswith("run_all.sh: the Consul of --full knows the demo services only")
    assert result.stderr.count("\n") == 1
