"""The commands that talk to a running gateway, against a real admin API: what they print, and how they fail."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gatewright.admin.operations import BreakerView
from gatewright.cli.remote import Remote, RemoteError, find
from tests.kit.admin import FakeOperations, RunningAdmin, run_admin
from tests.kit.wire import Target, TargetSession

TOKEN = "correct-horse-battery"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def one_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAdmin]:
    with run_admin(FakeOperations(tmp_path_factory.mktemp("admin")), TOKEN) as running:
        yield running


@pytest.fixture
def admin(one_for_all: RunningAdmin) -> RunningAdmin:
    one_for_all.call(one_for_all.operations.reset)
    return one_for_all


@pytest.fixture
def gatewright(tmp_path: Path) -> Run:
    """Run the command in a folder of its own, without what this machine says of admin APIs."""

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("GATEWRIGHT")}
        done = subprocess.run(
            [sys.executable, "-c", "from gatewright.cli import main; main()", *arguments],
            cwd=tmp_path,
            env={**kept, "COLUMNS": "200", **environ},
            capture_output=True,
            check=False,
            text=True,
            timeout=30,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done

    return run


@pytest.fixture
def asks(gatewright: Run, admin: RunningAdmin) -> Run:
    """Run the command with address and token in the environment."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return gatewright(*arguments, GATEWRIGHT_ADMIN=admin.url, GATEWRIGHT_ADMIN_TOKEN=TOKEN)

    return run


def test_status(asks: Run, admin: RunningAdmin) -> None:
    done = asks("status")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "gateway        ready, version 1.2.3, Python 3.13.0, pid 41"
    assert "up for         1 day, 2:03:04" in lines
    assert f"configuration  {admin.operations.file}, version {admin.operations.version.strip(chr(34))}" in lines
    assert lines[-2].split() == ["WORKER", "PID", "STATE", "SINCE", "RESTARTS", "CONNECTIONS", "IN", "FLIGHT"]
    assert lines[-1].split() == ["0", "42", "ready", "2024-05-01T12:00:00Z", "1", "7", "3"]
    admin.operations.source, admin.operations.saved = "api", False
    assert ", set by the admin API and not saved to the file\n" in asks("status").stdout


def test_targets(asks: Run, admin: RunningAdmin) -> None:
    key = ("shop", "[::1]:9")
    view = admin.operations._targets[key]
    change = {"ejected": 2, "breaker": BreakerView(open=1, half_open=1), "weight": 7}
    admin.operations._targets[key] = view.model_copy(update=change)
    title, *lines = asks("targets").stdout.splitlines()
    assert title.split("  ")[0] == "TARGET"
    columns = [title.index(name) for name in ("SERVICE", "STATE", "WEIGHT", "IN FLIGHT", "BREAKER", "EJECTED")]
    assert all(line[start - 1] == " " and line[start] != " " for line in lines for start in columns)
    assert lines[0].split() == ["10.0.0.1:8001", "shop", "up", "1", "2", "2", "closed", "-"]
    assert lines[2].split() == [
        "[::1]:9",
        "shop",
        "ejected",
        "7",
        "(file:",
        "1)",
        "2",
        "1",
        "open,",
        "1",
        "half-open",
        "2",
    ]


@pytest.mark.parametrize(
    ("command", "said", "change"),
    [
        (["drain", "shop", "[::1]:9"], "shop [::1]:9: draining, weight 1, 2 in flight\n", (True, None)),
        (["enable", "shop", "[::1]:9"], "shop [::1]:9: up, weight 1, 2 in flight\n", (False, None)),
        (["weight", "shop", "[::1]:9", "0"], "shop [::1]:9: disabled, weight 0, 2 in flight\n", (None, 0)),
    ],
)
def test_a_target_is_changed(
    asks: Run, admin: RunningAdmin, command: list[str], said: str, change: tuple[Any, Any]
) -> None:
    done = asks(*command)
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
    assert admin.operations.calls == [("set_target", "shop", "[::1]:9", *change)]


@pytest.mark.parametrize(
    ("options", "said", "call"),
    [
        (["--url", "http://Shop/a"], "purged in 2 workers: url http://shop/a\n", ("url", "http://shop/a")),
        (["--prefix", "http://shop/"], "purged in 2 workers: prefix http://shop/\n", ("prefix", "http://shop/")),
        (["--tag", "red"], "purged in 2 workers: tag red\n", ("tag", "red")),
        (["--all"], "purged in 2 workers: all\n", ("all", "")),
    ],
)
def test_purge(asks: Run, admin: RunningAdmin, options: list[str], said: str, call: tuple[str, str]) -> None:
    done = asks("purge", *options)
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
    assert admin.operations.calls == [("purge", *call)]


def test_a_purge_that_is_refused(asks: Run, admin: RunningAdmin) -> None:
    done = asks("purge", "--url", "http://shop/%2F")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("gatewright: url is none that a client can ask for: ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--prefix", "shop"], "body.prefix: String should match pattern "),
        (["--all"], "no worker serves\n"),
    ],
)
def test_what_a_refusal_says_more_is_told_too(asks: Run, admin: RunningAdmin, options: list[str], said: str) -> None:
    admin.operations.reasons = ["shutting down"]
    done = asks("purge", *options)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 2)
    assert done.stderr.startswith(said)


def test_a_refusal_is_json_too(asks: Run, gatewright: Run, admin: RunningAdmin) -> None:
    plain, done = asks("drain", "shop", "10.0.0.9:1"), asks("drain", "shop", "10.0.0.9:1", "--json")
    assert (done.returncode, done.stderr) == (1, plain.stderr)
    assert json.loads(done.stdout)["reason"] == "not_found"
    done = gatewright("status", "--json", "--admin", admin.url)
    assert (done.returncode, json.loads(done.stdout)["reason"]) == (1, "unauthorized")


def test_names_that_the_output_cannot_encode_are_escaped(gatewright: Run, admin: RunningAdmin) -> None:
    view = admin.operations._targets["shop", "[::1]:9"]
    admin.operations._targets["größe", "[::1]:9"] = view.model_copy(update={"service": "größe"})
    where = {"GATEWRIGHT_ADMIN": admin.url, "GATEWRIGHT_ADMIN_TOKEN": TOKEN}
    done = gatewright("targets", PYTHONIOENCODING="ascii", **where)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].split()[1] == r"gr\xf6\xdfe"


def test_json_is_what_the_api_says(asks: Run, admin: RunningAdmin) -> None:
    fields = {"authorization": f"Bearer {TOKEN}"}
    for command, path in (("status", "/status"), ("targets", "/targets")):
        assert json.loads(asks(command, "--json").stdout) == json.loads(admin.ask("GET", path, **fields).body)
    assert json.loads(asks("drain", "shop", "[::1]:9", "--json").stdout)["state"] == "draining"
    assert json.loads(asks("reload", "--json").stdout)["changed"] is True


def test_reload(asks: Run, admin: RunningAdmin) -> None:
    done = asks("reload")
    assert (done.returncode, done.stdout) == (0, "reloaded\n")
    admin.operations.file.write_text("routes: [{name: a, match: {path: /a}, servise: x}]\nfoo: 1\n")
    done = asks("reload")
    assert (done.returncode, done.stdout) == (1, "")
    *errors, last = done.stderr.splitlines()
    assert last == "gatewright: The configuration has 3 errors; nothing was changed"
    checked = subprocess.run(
        [sys.executable, "-c", "from gatewright.cli import main; main()", "check", str(admin.operations.file)],
        capture_output=True,
        check=False,
        text=True,
        timeout=30,
    )
    assert errors == checked.stderr.splitlines()[:-1]


@pytest.mark.parametrize("target", ["10.0.0.1:800", "../../x", "a/b?c#d", "%41", "\x1b[2J"])
def test_a_target_that_is_not_there(asks: Run, admin: RunningAdmin, target: str) -> None:
    done = asks("drain", "shop", target)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(("gatewright: There is no target of shop called ", "gatewright: There is nothing at"))
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr


def test_a_token_is_wanted(gatewright: Run, admin: RunningAdmin) -> None:
    done = gatewright("status", "--admin", admin.url)
    assert done.stderr == f"gatewright: the gateway at {admin.url} wants a token: set GATEWRIGHT_ADMIN_TOKEN\n"
    assert done.returncode == 1
    done = gatewright("status", "--admin", admin.url, GATEWRIGHT_ADMIN_TOKEN="wrong")
    assert "does not take this token" in done.stderr
    assert gatewright("status", "--admin", admin.url, "--token", TOKEN).returncode == 0


def test_the_help_says_that_a_token_on_the_command_line_is_seen(gatewright: Run) -> None:
    said = " ".join(gatewright("status", "--help").stdout.replace("│", " ").split())
    assert "Every user of this machine can read a command line: better set GATEWRIGHT_ADMIN_TOKEN." in said


def test_the_configuration_says_where_and_token(gatewright: Run, admin: RunningAdmin, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('imported')\n")
    bind = "0.0.0.0:${PORT}"
    text = f"admin: {{bind: '{bind}', token: {TOKEN}}}\nplugins: [use: './mine.py:Mine']\n"
    (tmp_path / "gateway.yaml").write_text(text)
    (tmp_path / ".env").write_text(f"PORT={admin.port}\n")
    assert gatewright("targets").returncode == 0
    (tmp_path / "gateway.yaml").rename(tmp_path / "other.yaml")
    assert gatewright("targets", "--config", "other.yaml").returncode == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("admin: false\n", "turns the admin API off"),
        ("admin: {bind: '127.0.0.1:0'}\n", "lets the system choose the admin API's port"),
        ("admin: {bind: '127.0.0.1:PORT'}\n", "no gateway answers at http://127.0.0.1:PORT: is it running?\n"),
    ],
)
def test_no_gateway(gatewright: Run, tmp_path: Path, text: str, said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    (tmp_path / "gateway.yaml").write_text(text.replace("PORT", port))
    done = gatewright("status")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("gatewright: ")
    assert said.replace("PORT", port) in done.stderr


@pytest.mark.parametrize(("text", "note"), [(None, "is not there to say where"), ("a: [", "has errors")])
def test_where_it_is_looked_for_without_a_configuration(tmp_path: Path, text: str | None, note: str) -> None:
    config = tmp_path / "gateway.yaml"
    if text is not None:
        config.write_text(text)
    found = find(None, "", config)
    assert (found.url, found.token) == ("http://127.0.0.1:9901", "")
    assert note in found.note


def test_the_configurations_token_goes_nowhere_else(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(f"admin: {{bind: '[::]:9901', token: {TOKEN}}}\n")
    assert find(None, None, config) == Remote("http://[::1]:9901", TOKEN)
    assert find("http://elsewhere:9901", None, config).token == ""
    assert TOKEN not in repr(find(None, None, config))


@pytest.mark.parametrize(
    ("given", "url"),
    [("127.0.0.1:9", "http://127.0.0.1:9"), ("https://a.test/gw/", "https://a.test/gw"), ("[::1]:9", "http://[::1]:9")],
)
def test_addresses_that_are_taken(tmp_path: Path, given: str, url: str) -> None:
    assert find(given, None, tmp_path).url == url


@pytest.mark.parametrize(
    "given",
    [
        "",
        "ftp://a",
        "http://",
        "http://a:0",
        "http://a:99999",
        "http://u:p@a",
        "http://a?x",
        "http://a b",
        "[::1",
        "http://a..b:1",
        f"http://{'a' * 64}",
        "http://a/ü",
    ],
)
def test_addresses_that_are_not(tmp_path: Path, given: str) -> None:
    with pytest.raises(RemoteError, match="--admin must be a URL"):
        find(given, None, tmp_path)


@pytest.mark.parametrize("token", ["a b", "a\r\nX-Evil: 1", "ä"])
def test_tokens_that_are_none(tmp_path: Path, token: str) -> None:
    with pytest.raises(RemoteError, match="the token holds characters"):
        find(None, token, tmp_path)


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe",
    ],
)
def test_something_else_that_answers(target: Callable[..., Target], reply: bytes) -> None:
    def script(session: TargetSession) -> None:
        session.read_request()
        session.send(reply)

    with pytest.raises(RemoteError, match="is no gateway's admin API"):
        Remote(target(script).url).ask("GET", "/status")


def test_an_answer_of_another_version_is_one_line(gatewright: Run, target: Callable[..., Target]) -> None:
    def script(session: TargetSession) -> None:
        session.read_request()
        session.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    for command in ("status", "targets"):
        done = gatewright(command, "--admin", target(script).url)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "gatewright: the answer is not one of this version's admin API\n"


@pytest.mark.parametrize(
    ("command", "change"),
    [
        ("status", {"uptime_seconds": float("inf")}),
        ("status", {"config": {"version": 5}}),
        ("status", {"workers": [{"index": 0}]}),
        ("targets", {"breaker": None}),
    ],
)
def test_a_strange_answer_is_one_line(
    gatewright: Run, admin: RunningAdmin, target: Callable[..., Target], command: str, change: dict[str, Any]
) -> None:
    done = gatewright(command, "--admin", target(_altered(admin, command, change)).url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "gatewright: the answer is not one of this version's admin API\n"


def test_no_answer_gives_a_terminal_orders(gatewright: Run, admin: RunningAdmin, target: Callable[..., Target]) -> None:
    order = "\x1b[2J"
    members = {"name": 5, "weight": order, "in_flight": order, "ejected": order, "breaker": {order: 1}}
    done = gatewright("targets", "--admin", target(_altered(admin, "targets", members)).url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert done.stdout.splitlines()[1].split() == [
        "5", "shop", "up", r"\x1b[2J", "(file:", "1)", r"\x1b[2J", "1", r"\x1b[2J", r"\x1b[2J"
    ]  # fmt: skip


def _altered(admin: RunningAdmin, path: str, change: dict[str, Any]) -> Callable[[TargetSession], None]:
    """Return what answers as the API does, but for these members of what it says, or of the first thing that it lists."""
    answer = json.loads(admin.ask("GET", f"/{path}", authorization=f"Bearer {TOKEN}").body)
    (answer[0] if isinstance(answer, list) else answer).update(change)
    body = json.dumps(answer).encode()

    def script(session: TargetSession) -> None:
        session.read_request()
        session.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    return script


@pytest.mark.parametrize(
    "arguments",
    [
        ["drain", "shop"],
        ["weight", "shop", "a:1", "-1"],
        ["weight", "shop", "a:1", "x"],
        ["purge"],
        ["purge", "--all", "--tag", "x"],
    ],
)
def test_usage_errors(gatewright: Run, arguments: list[str]) -> None:
    assert gatewright(*arguments).returncode == 2
