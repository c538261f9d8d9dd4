"""Loading a file: everything that is wrong at once, each with its place, and never a traceback or a secret."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatewright.control.errors import ConfigError
from gatewright.control.loader import MAX_FILE, load
from gatewright.control.service_models import TargetConfig
from tests.control.sample import FULL, Plugins, load_text, messages

MINIMAL = "services: {a: {targets: [http://a]}}\nroutes:\n  - {name: a, match: {path: /a}, service: a}\n"


def test_a_whole_configuration_loads(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, FULL, {"PORT": "9000"})
    assert messages(loaded) == []
    config = loaded.config
    assert config is not None
    assert str(config.listeners[0].bind) == "0.0.0.0:9000"
    service = config.services["service-a"]
    assert service.targets == (
        TargetConfig(url="http://127.0.0.1:8001"),
        TargetConfig(url="https://[::1]:8443", weight=3),
    )
    assert (service.targets[1].host, service.targets[1].port, service.targets[0].port) == ("::1", 8443, 8001)
    assert service.retry.on == ("connect_failure", "reset", 502, 503, 504)
    assert service.outlier is not None
    assert service.outlier.max_ejected == 0.5
    assert config.services["hashed"].breaker is None
    assert [plugin.label for plugin in config.routes[0].plugins] == ["plain", "settled", "somewhere:Settled"]
    assert config.routes[0].plugins[2].config == {"size": 6}
    assert config.routes[1].match.host == ("*.example.com",)
    assert loaded.files == (tmp_path / "gateway.yaml", tmp_path / "docs/.env", tmp_path / ".env")


def test_defaults_are_those_of_the_contract(tmp_path: Path) -> None:
    config = load_text(tmp_path, MINIMAL).config
    assert config is not None
    limits, service = config.limits, config.services["a"]
    assert (limits.request_line, limits.headers, limits.header_count, limits.body) == (8192, 32768, 100, 10 * 2**20)
    assert (limits.header_timeout, limits.body_timeout, limits.keepalive_timeout, limits.write_timeout) == (
        10,
        30,
        75,
        60,
    )
    assert (service.balance, service.host, service.health, service.max_in_flight) == ("p2c", "preserve", None, 1024)
    assert service.timeouts.model_dump() == {"connect": 3, "response": 30, "idle": 60, "total": 60, "tunnel": 3600}
    assert service.breaker is not None
    assert service.breaker.model_dump() == {"failure_rate": 0.5, "minimum": 20, "window": 10, "open": 10}
    assert (service.retry.attempts, service.retry.budget, service.retry.backoff.max) == (1, 0.2, 0.25)
    assert service.pool.model_dump() == {"max_connections": 1024, "max_idle": 128, "idle_timeout": 60, "max_age": 3600}


def test_everything_is_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
zebra: 1
services:
  service-a:
    targets: ["${SERVICE_A_URL}"]
    timeouts: {conect: 3s, idle: 5}
    retry:
      on: [reset, 700]
routes:
  - name: one
    match: {path: "/a/{id}", methods: [get]}
    service: servce-a
    rewrite: /{idd}
    plugins:
      - settled: {siez: 3}
  - name: one
    match: {path: /b//c}
    service: service-a
    respond: {status: twelve}
plugins: [plan]
"""
    assert messages(load_text(tmp_path, text, {"SERVICE_B_URL": "x"})) == [
        "gateway.yaml:1:1: zebra: unknown key",
        "gateway.yaml:4:15: services.service-a.targets[0]: the variable SERVICE_A_URL is not set: set it, or give it a "
        'default with ${SERVICE_A_URL:-...}; did you mean "SERVICE_B_URL"?',
        'gateway.yaml:5:16: services.service-a.timeouts.conect: unknown key; did you mean "connect"?',
        "gateway.yaml:5:34: services.service-a.timeouts.idle: must be a duration such as "
        '"250ms", "3s", "1m", "2h" or "1d": the number has no unit (got 5)',
        "gateway.yaml:7:19: services.service-a.retry.on[1]: must be connect_failure, reset, timeout, 429 or a 5xx "
        "status (got 700)",
        "gateway.yaml:10:40: routes[0].match.methods[0]: methods are case-sensitive, and this one is not in upper case "
        '(got "get"); did you mean "GET"?',
        'gateway.yaml:11:14: routes[0].service: there is no service of this name (got "servce-a"); '
        'did you mean "service-a"?',
        "gateway.yaml:12:14: routes[0].rewrite: the path has no parameter {idd}; its parameters: id; "
        'did you mean "id"?',
        "gateway.yaml:14:9: routes[0].plugins[0].settled.size: is missing",
        'gateway.yaml:14:19: routes[0].plugins[0].settled.siez: unknown key; did you mean "size"?',
        'gateway.yaml:15:11: routes[1].name: routes[0] has the same name (got "one")',
        "gateway.yaml:16:19: routes[1].match.path: the path '/b//c' holds \"//\", which no normalised path does",
        "gateway.yaml:18:5: routes[1].respond: a route has one action, and this one has `service`",
        'gateway.yaml:18:23: routes[1].respond.status: must be a whole number (got "twelve")',
        "gateway.yaml:19:11: plugins[0]: there is no plugin 'plan'; did you mean \"plain\"?",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "gateway.yaml:1:1: the file is empty"),
        (b"\xef\xbb\xbf", "gateway.yaml:1:1: the file is empty"),
        (b"a: 1\nb: \xff\n", "gateway.yaml:2:4: the file is not UTF-8 from here on"),
        (MINIMAL.encode("utf-16"), "gateway.yaml:1:1: the file is not UTF-8 from here on"),
        (b"- a\n", "gateway.yaml:1:1: must be a mapping"),
        (b"just text", 'gateway.yaml:1:1: must be a mapping (got "just text")'),
        (b" " * (MAX_FILE + 1), "gateway.yaml: is larger than 16 MiB"),
    ],
)
def test_a_file_that_holds_no_configuration(tmp_path: Path, text: bytes, message: str) -> None:
    loaded = load_text(tmp_path, text)
    assert messages(loaded) == [message]
    assert loaded.config is None


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert messages(load(tmp_path / "none.yaml", {})) == ["none.yaml: cannot be read: no such file or directory"]
    (tmp_path / "folder").mkdir()
    assert messages(load(tmp_path / "folder", {})) == ["folder: cannot be read: is a directory"]
    assert "cannot be read" in str(load(Path("a\0b"), {}).errors[0])
    locked = tmp_path / "locked.yaml"
    locked.write_text(MINIMAL)
    locked.chmod(0)
    if not os.access(locked, os.R_OK):  # root may read anything
        assert messages(load(locked, {})) == ["locked.yaml: cannot be read: permission denied"]


@pytest.mark.parametrize("name", ["gateway.yaml", ".env", "cert.pem"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path, name: str) -> None:
    (tmp_path / "gateway.yaml").write_text(MINIMAL + "listeners: [{bind: 'a:1', tls: {cert: cert.pem, key: .env}}]\n")
    for other in {".env", "cert.pem"} - {name}:
        (tmp_path / other).write_text("")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    told = messages(load(tmp_path / "gateway.yaml", {}))
    assert told
    assert all("cannot be read: not a regular file" in each for each in told), told


def test_a_byte_order_mark_and_windows_line_ends_are_taken(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbf" + (MINIMAL + "x: 1\n").replace("\n", "\r\n").encode()
    assert messages(load_text(tmp_path, text))[0].startswith("gateway.yaml:4:1: x: unknown key")


def test_the_environment_outranks_env_files_and_the_nearer_outranks_the_farther(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/.env").write_text("P=1\nQ=1\nR=1\n")
    (tmp_path / ".env").write_text("P=2\nQ=2\n")
    text = (
        MINIMAL
        + "limits: {request_line: '${P}00B', headers: '${Q}000B', header_count: 1}\nlisteners: [{bind: 'a:${R}'}]\n"
    )
    loaded = load_text(tmp_path, text, {"P": "3"})
    assert loaded.config is not None
    assert (loaded.config.limits.request_line, loaded.config.limits.headers) == (300, 2000)
    assert loaded.config.listeners[0].bind.port == 1
    assert loaded.files[1:] == (tmp_path / "docs/.env", tmp_path / ".env")


def test_env_files_have_errors_with_places_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=1\nnonsense here\n")
    assert messages(load_text(tmp_path, "x: 1\n" + MINIMAL))[1] == ".env:2:1: must be NAME=value, a # comment or blank"


@pytest.mark.parametrize(
    "edit",
    ["Authorization: 'Bearer hunter2-hunter2{'", "X-Auth: 'hunter2 {nope}'", "X-Any: 'Bearer hunter2-hunter2 {'"],
)
def test_edits_of_fields_are_not_quoted_either(tmp_path: Path, edit: str) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(f"plugins: [headers: {{request: {{set: {{{edit}}}}}}}]\n")
    (told,) = messages(load(path, {}))
    assert "hunter2" not in told
    assert "brace without its other half" in told or "{nope} is not a variable" in told


def test_plugins_are_checked_with_places_wherever_they_stand(tmp_path: Path) -> None:
    text = """\
plugins:
  - use: somewhere:Settled
    size: many
  - settled:
    size: 1
  - broken: {}
services:
  a:
    targets: [http://a]
    plugins:
      - settled: {size: 13, inner: {dep: 1}}
      - settled:
          size: 14
routes:
  - name: a
    match: {path: /}
    service: a
    plugins: [{use: nonsense}, settled: 5, {use: "broken:X"}, {}]
"""
    assert messages(load_text(tmp_path, text)) == [
        'gateway.yaml:3:11: plugins[0].size: must be a whole number (got "many")',
        "gateway.yaml:4:5: plugins[1]: must name one plugin, not 2: its settings are indented under its name",
        "gateway.yaml:6:5: plugins[2]: there is no plugin 'broken'",
        'gateway.yaml:11:37: services.a.plugins[0].settled.inner.dep: unknown key; did you mean "deep"?',
        "gateway.yaml:12:9: services.a.plugins[1].settled: the plugin 'settled' fails on these settings: "
        "RuntimeError: a fault in the plugin",
        'gateway.yaml:18:15: routes[0].plugins[0]: `use` must be an import path such as "package.module:Class" or '
        '"./plugins.py:Class"',
        "gateway.yaml:18:32: routes[0].plugins[1]: the settings of a plugin must be a mapping",
        "gateway.yaml:18:44: routes[0].plugins[2]: the plugin 'broken:X' cannot be loaded: "
        "ZeroDivisionError: at import",
        'gateway.yaml:18:63: routes[0].plugins[3]: must be a plugin: a name, "name: {settings}", or '
        '"use: package.module:Class" with settings',
    ]


def test_a_plugin_is_loaded_once_however_often_it_is_named(tmp_path: Path) -> None:
    plugins = Plugins()
    load_text(tmp_path, "plugins: [plain, plain, {use: 'a:B', size: 1}, {use: 'a:B', size: 2}]\n", plugins=plugins)
    assert plugins.asked == [("plain", None), (None, "a:B")]


def test_without_a_source_only_the_shape_of_plugin_lists_counts(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("plugins: [unheard_of: {anything: 1}]\n")
    assert load(path, {}, None).config is not None


def test_built_in_plugins_are_found_by_default(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("plugins: [headrs]\n")
    assert messages(load(path, {})) == [
        "gateway.yaml:1:11: plugins[0]: there is no plugin 'headrs'; did you mean \"headers\"?"
    ]


@pytest.mark.parametrize("state", ["", "state: {redis: ''}\n", "state: 5\n"])
def test_a_cache_in_redis_needs_a_redis(tmp_path: Path, state: str) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("plugins:\n  - cache:\n      store: redis\n" + state)
    assert messages(load(path, {}))[0] == (
        "gateway.yaml:3:14: plugins[0].cache.store: needs a Redis, and the configuration has none: say where it is with "
        '`state: {redis: "redis://host:6379/0"}`'
    )
    path.write_text("plugins: [{cache: {store: redis}}]\nstate: {redis: 'redis://h'}\n")
    assert messages(load(path, {})) == []
    path.write_text("plugins: [{cache: {store: '${REDIS_URL:+redis}'}}]\n")
    assert messages(load(path, {})) == []


def test_files_that_the_configuration_names_are_watched(tmp_path: Path) -> None:
    for name in ("a.crt", "a.key"):
        (tmp_path / name).write_text("")
    text = "listeners: [{bind: 'a:1', tls: {cert: a.crt, key: a.key}}]\nplugins: [{use: './p.py:X', size: 1}]\n"
    loaded = load_text(tmp_path, text)
    assert messages(loaded) == []
    named = {"gateway.yaml", "docs/.env", ".env", "a.crt", "a.key", "p.py"}  # of which some are not there yet
    assert {str(path.relative_to(tmp_path)) for path in loaded.files} == named
    assert loaded.config is not None
    assert loaded.config.listeners[0].tls is not None
    assert loaded.config.listeners[0].tls.cert == tmp_path / "a.crt"


def test_an_error_in_an_anchor_is_told_once_where_it_stands(tmp_path: Path) -> None:
    text = "services:\n  a: &s\n    targets: [http://a]\n    timeouts: {conect: 1s}\n  b: *s\n  c: {<<: *s, targets: [http://c]}\n"
    assert messages(load_text(tmp_path, text)) == [
        'gateway.yaml:4:16: services.a.timeouts.conect: unknown key; did you mean "connect"?'
    ]


def test_an_error_that_a_terminal_would_obey_is_escaped(tmp_path: Path) -> None:
    (told,) = messages(load_text(tmp_path, '"\\e[31mred\\a": 1\n'))
    assert told.isprintable()
    assert "\\x1b" in told or "\\u001b" in told


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.one_of(st.binary(), st.text(), st.text(alphabet="abrs:-[]{}&*<?, #'\"\n|>~1!%$")))
def test_any_file_is_loaded_or_told(tmp_path: Path, content: bytes | str) -> None:
    text = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    loaded = load_text(tmp_path, text)
    check_places(loaded.errors, text)
    assert (loaded.config is None) == bool(loaded.errors)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_configuration_with_anything_anywhere_is_loaded_or_told(tmp_path: Path, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(FULL)))
    end = data.draw(st.integers(start, min(len(FULL), start + 30)))
    odd = st.sampled_from(
        ["null", "[]", "{}", "5", "1.5", "true", '"x"', "${A}", "*a", "&a ", "\n", "  ", ": ", "- ", "~"]
    )
    text = FULL[:start] + data.draw(odd) + FULL[end:]
    loaded = load_text(tmp_path, text)
    check_places(loaded.errors, text.encode())


def check_places(errors: list[ConfigError], text: bytes) -> None:
    """Assert that each error is within the file, and in order."""
    lines = re.split("\r\n|[\r\n\x85\u2028\u2029]", text.decode("utf-8", "replace"))
    places = [(error.line, error.column) for error in errors]
    assert places == sorted(places)
    for line, column in places:
        assert 1 <= line <= len(lines)
        assert 1 <= column <= len(lines[line - 1]) + 1
    assert all(str(error).isprintable() for error in errors)
