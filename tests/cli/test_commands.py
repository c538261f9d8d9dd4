"""The commands that start nothing: check, routes, schema, version; exit codes, and never a traceback."""

import json
import os
import pty
import subprocess
import sys

import jsonschema
import pytest
import yaml

CONFIG = """
services:
  shop: {targets: ["http://127.0.0.1:9"]}
  new: {targets: ["http://127.0.0.1:9"], plugins: [transform: {request: {set: {a: 1}}}]}
routes:
  - name: shop
    match: {path: "/shop/{rest...}", methods: [GET, POST], host: [shop.test, "*.shop.test"]}
    service: shop
    strip_prefix: /shop
  - name: beta
    match: {path: "/shop/beta", headers: {x-beta: true}, query: {v: "2"}}
    split: [{service: shop, weight: 9}, {service: new, weight: 1}]
    plugins: [headers: {}]
  - {name: old, match: {path: /old}, redirect: {to: /shop/}}
  - {name: ping, match: {path: /ping}, respond: {body: pong}}
"""


@pytest.fixture
def gatewright(tmp_path):
    """Run the command in a folder of its own."""

    def run(*arguments, files=None, env=None):
        for name, text in (files or {}).items():
            (tmp_path / name).write_text(text)
        done = subprocess.run(
            [sys.executable, "-c", "from gatewright.cli import main; main()", *arguments],
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "80", **(env or {})},
            capture_output=True,
            check=False,
            text=True,
            timeout=30,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done

    return run


def test_check_of_a_good_file(gatewright):
    done = gatewright("check", "g.yaml", files={"g.yaml": CONFIG})
    assert (done.returncode, done.stdout, done.stderr) == (0, "g.yaml: good (4 routes, 2 services)\n", "")


def test_the_file_is_gateway_yaml_unless_told(gatewright):
    assert gatewright("check", files={"gateway.yaml": CONFIG}).returncode == 0


BROKEN = """
services:
  shop: {targets: ["http://127.0.0.1:9"], retries: {attempts: 1}, timeouts: {connect: 3}}
routes:
  - {name: a, match: {path: /a}, service: shopp}
  - {name: b, match: {path: "/b"}, service: "${NOWHERE_TO_BE_FOUND}"}
  - name: c
    match: {path: /c}
    service: shop
    plugins: [headerz: {}, {use: "./mine.py:Mine"}, headers: {request: {st: {}}}]
"""


def test_check_tells_everything_at_once_with_places_and_suggestions(gatewright):
    done = gatewright("check", "g.yaml", files={"g.yaml": BROKEN, "mine.py": "def broken(:\n"})
    assert (done.returncode, done.stdout) == (1, "")
    *errors, last = done.stderr.splitlines()
    assert last == f"gatewright: g.yaml: {len(errors)} errors"
    expected = [
        (":3:43: services.shop.retries", 'did you mean "retry"?'),
        (":3:", "timeouts.connect: must be a duration"),
        (":5:", 'did you mean "shop"?'),
        (":6:", "NOWHERE_TO_BE_FOUND"),
        (":10:", 'did you mean "headers"?'),
        (":10:", "mine.py cannot be loaded"),
        (":10:", 'did you mean "set"?'),
    ]
    for place, text in expected:
        assert any(place in error and text in error for error in errors), (place, text, done.stderr)
    assert all(error.partition(":")[0].endswith("g.yaml") for error in errors)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("none.yaml", None),
        ("bytes.yaml", b"\xff\xfe\x00"),
        ("tabs.yaml", b"a:\n\t- b\n"),
        ("list.yaml", b"- a\n"),
        (".", None),
    ],
)
def test_a_file_that_cannot_be_read_is_one_error(gatewright, tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    for command in ("check", "routes", "run") if name == "none.yaml" else ("check",):
        done = gatewright(command, name)
        assert done.returncode == 1
        assert name in done.stderr


def test_a_certificate_that_is_none_is_found_by_check(gatewright):
    files = {
        "bad.pem": "no certificate",
        "g.yaml": 'listeners: [{bind: "127.0.0.1:0", tls: {cert: bad.pem, key: bad.pem}}]\n',
    }
    done = gatewright("check", "g.yaml", files=files)
    assert done.returncode == 1
    assert "listeners[0].tls" in done.stderr
    service = 'services: {s: {targets: ["https://a.test"], tls: {ca: bad.pem}}}\n'
    done = gatewright("check", "g.yaml", files={"g.yaml": service})
    assert done.returncode == 1
    assert "services.s.tls" in done.stderr


def test_an_application_that_cannot_be_imported_is_found_by_check(gatewright):
    done = gatewright("check", "g.yaml", files={"g.yaml": "services: {s: {app: nothing_here.main:app}}\n"})
    assert done.returncode == 1
    assert "nothing_here" in done.stderr


def test_routes_is_a_line_a_route_when_it_is_not_read_by_a_person(gatewright):
    done = gatewright("routes", "g.yaml", files={"g.yaml": CONFIG})
    assert done.returncode == 0
    title, *lines = done.stdout.splitlines()
    assert title.split() == ["ROUTE", "METHODS", "PATH", "CONDITIONS", "TO", "REWRITE", "PLUGINS"]
    assert [line.split("  ")[0].strip() for line in lines] == ["shop", "beta", "old", "ping"]
    for column in ("METHODS", "PATH", "TO", "PLUGINS"):
        start = title.index(column)
        assert all(line[start - 1] == " " and line[start] != " " for line in lines), column
    assert "{shop.test,*.shop.test}/shop/{rest...}" in lines[0]
    assert "x-beta: *, ?v=2" in lines[1]
    assert "shop 9, new 1" in lines[1]
    assert lines[1].endswith("transform,headers")
    assert "redirect 308 /shop/" in lines[2]


def test_routes_for_machines(gatewright):
    rows = json.loads(gatewright("routes", "g.yaml", "--json", files={"g.yaml": CONFIG}).stdout)
    assert rows[0] == {
        "name": "shop", "hosts": ["shop.test", "*.shop.test"], "methods": ["GET", "POST"], "path": "/shop/{rest...}",
        "conditions": [], "priority": 0, "to": "shop", "rewrite": "strip /shop", "plugins": [],
    }  # fmt: skip
    assert rows[1]["plugins"] == ["transform", "headers"]


def test_the_schema_takes_what_check_takes(gatewright):
    schema = json.loads(gatewright("schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(CONFIG), schema)


def test_version(gatewright):
    words = gatewright("version").stdout.split()
    assert words[0] == "gatewright"
    assert words[1][0].isdigit()


@pytest.mark.parametrize(
    ("where", "said"),
    [(">/dev/full", "cannot be written: No space left on device"), (">&-", "is closed")],
)
@pytest.mark.parametrize("arguments", [["version"], ["schema"], ["routes", "g.yaml"], ["routes", "g.yaml", "--json"]])
def test_an_output_that_takes_nothing_is_one_line_and_exit_1(tmp_path, arguments, where, said):
    (tmp_path / "g.yaml").write_text(CONFIG)
    command = [sys.executable, "-c", "from gatewright.cli import main; main()", *arguments]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {where}', "sh", *command],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        check=False,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (1, f"gatewright: standard output {said}\n")


def test_a_terminal_that_does_not_know_its_width_is_printed_to(tmp_path):
    (tmp_path / "g.yaml").write_text(CONFIG)
    ours, theirs = pty.openpty()
    subprocess.run(
        [sys.executable, "-c", "from gatewright.cli import main; main()", "routes", "g.yaml"],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "0"},
        stdout=theirs,
        check=True,
        timeout=30,
    )
    os.close(theirs)
    assert b"ROUTE" in os.read(ours, 65536)
    os.close(ours)


@pytest.mark.parametrize("arguments", [["cheque"], ["check", "a", "b"], ["routes", "--jsn"], []])
def test_usage_errors_exit_with_2(gatewright, arguments):
    assert gatewright(*arguments).returncode == 2
