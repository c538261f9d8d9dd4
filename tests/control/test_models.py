"""What each section takes and refuses, as a user writes it and reads it."""

from pathlib import Path

import pytest

from gatewright.control.balance_models import HashBalance, StickyBalance
from gatewright.control.base import ConfigModel
from gatewright.control.models import GatewayConfig
from tests.control.sample import load_text, messages

SERVICE = "services: {{a: {{targets: [http://a], {}}}}}\n"
ROUTE = "services: {{a: {{targets: [http://a]}}}}\nroutes: [{{name: r, match: {{path: '/a/{{id}}'}}, {}}}]\n"


def told(folder: Path, text: str) -> str:
    """Return the one error that `text` has, without its place."""
    found = messages(load_text(folder, text))
    assert len(found) == 1, found
    return found[0].split(": ", 1)[1]


def config_of(folder: Path, text: str) -> GatewayConfig:
    """Return what `text` says."""
    loaded = load_text(folder, text)
    assert loaded.config is not None, messages(loaded)
    return loaded.config


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("10.0.0.1:80", 'the scheme is missing (got "10.0.0.1:80"); did you mean "http://10.0.0.1:80"?'),
        ("ftp://a", "the scheme must be http or https"),
        ("http://", "the host is missing"),
        ("http://a:0", "the port must be between 1 and 65535"),
        ("http://a:", "the port must be between 1 and 65535"),
        ("http://a:99999", "its host or port is not valid"),
        ("http://a/base", "put it into the route's `rewrite`"),
        ("http://a?x", "no query"),
        ("http://u:p@a", "no user or password"),
        ("http://[::1", "its host or port is not valid"),
        ("http://1.2.3.999", "neither an IPv4 address nor a name"),
        ("http://a b", "must be a URL"),
    ],
)
def test_target_urls(tmp_path: Path, url: str, message: str) -> None:
    assert message in told(tmp_path, f"services: {{a: {{targets: ['{url}']}}}}")


@pytest.mark.parametrize(
    ("bind", "message"),
    [
        ("8080", "must be host:port"),
        (":8080", "must be host:port"),
        ("a:http", "must be host:port"),
        ("a:65536", "between 0 and 65535"),
        ("::1:80", 'in brackets (got "::1:80"); did you mean "[::1]:80"?'),
        ("[zz]:80", "must hold an IPv6 address"),
        ("300.0.0.1:80", "neither an IPv4 address nor a name"),
    ],
)
def test_binds(tmp_path: Path, bind: str, message: str) -> None:
    assert message in told(tmp_path, f"listeners: [{{bind: '{bind}'}}]")


def test_binds_that_are_taken(tmp_path: Path) -> None:
    config = config_of(tmp_path, "listeners: [{bind: '[::1]:0'}, {bind: 'LocalHost:80'}, {bind: '[::1]:0'}]")
    assert [str(listener.bind) for listener in config.listeners] == ["[::1]:0", "localhost:80", "[::1]:0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("app: 'x:y'", "a service has `targets` or `app`, not both"),
        ("balance: rand", "services.a.balance: must be p2c, round_robin"),
        ("balance: hash", "hash: {by: header:x-user}"),
        ("balance: {hash: {}}", "services.a.balance.hash.by: is missing"),
        ("balance: {hash: {by: user}}", "must be header:<name>, cookie:<name>, client_ip or path"),
        ("balance: {hash: {by: 'header:a b'}}", "must be a header's name"),
        ("balance: {sticky: {cookie: 'a;b'}}", "must be a cookie's name"),
        ("health: true", "must be false or a mapping"),
        ("health: {}", "services.a.health.path: is missing"),
        ("health: {path: health}", 'must be a path such as "/health"'),
        ("health: {path: /, statuses: 399-200}", 'did you mean "200-399"?'),
        ("health: {path: /, statuses: [200, 2xx]}", "must be a status such as 200"),
        ("outlier: ", "must be false or a mapping"),
        ("timeouts: {connect: 0}", "must be longer than zero"),
        ("retry: {attempts: 11}", "must be at most 10"),
        ("retry: {attempts: true}", "must be a whole number"),
        ("retry: {on: 502}", "must be a list"),
        ("retry: {on: [404]}", "must be connect_failure, reset, timeout, 429 or a 5xx status"),
        ("retry: {budget: 0.2}", 'must be a percentage such as "50%"'),
        ("max_in_flight: 0", "must be at least 1"),
        ("max_in_flight: '5'", "must be a whole number, without quotes"),
        ("host: 'a b'", 'must be "preserve", "target" or a host'),
        ("tls: {cert: gateway.yaml}", "services.a.tls.cert: needs `key` beside it"),
        ("tls: {ca: none.pem}", "cannot be read: no such file or directory"),
        ("tls: ", "services.a.tls: must be a mapping, and has no value"),
        ("pool: {max_idel: 5}", 'unknown key; did you mean "max_idle"?'),
        ("zone: x", "services.a.zone: unknown key"),
    ],
)
def test_service_options(tmp_path: Path, options: str, message: str) -> None:
    assert message in told(tmp_path, SERVICE.format(options))


@pytest.mark.parametrize(
    ("service", "message"),
    [
        ("{}", "services.a: needs `targets`, `discover` or `app`"),
        ("{targets: []}", "services.a.targets: must not be empty"),
        ("{targets: }", "services.a.targets: has no value: give it one, or remove the key"),
        ("{targets: [5]}", "must be a URL, or a mapping of url and weight (got 5)"),
        ("{targets: [{url: http://a, weight: -1}]}", "must be at least 0"),
        ("{targets: [{url: http://a, weight: 0}]}", "every weight is 0"),
        ("{app: main}", 'must be an import path such as "package.module:app"'),
        ("{app: 'm:a', pool: {}}", "services.a.pool: has no effect on a service with `app`"),
        ("5", "services.a: must be a mapping"),
    ],
)
def test_services(tmp_path: Path, service: str, message: str) -> None:
    assert message in told(tmp_path, f"services: {{a: {service}}}")


@pytest.mark.parametrize("name", ["a b", "/a", "", "-a", "'${X}'"])
def test_names_of_services(tmp_path: Path, name: str) -> None:
    assert "a name has letters" in told(tmp_path, f"services: {{'{name.strip(chr(39))}': {{targets: [http://a]}}}}")


def test_balancers(tmp_path: Path) -> None:
    text = "services:\n" + "".join(
        f"  s{index}: {{targets: [http://a], balance: {balance}}}\n"
        for index, balance in enumerate(
            ["least_requests", "{hash: {by: client_ip}}", "sticky", "{sticky: {cookie: c, ttl: 1h}}", "{sticky: }"]
        )
    )
    found = [service.balance for service in config_of(tmp_path, text).services.values()]
    assert found[0] == "least_requests"
    assert isinstance(found[1], HashBalance)
    assert found[1].hash.by == "client_ip"
    assert [balance.sticky.cookie for balance in found[2:] if isinstance(balance, StickyBalance)] == [
        "gw_sticky",
        "c",
        "gw_sticky",
    ]


def test_statuses_of_health_checks(tmp_path: Path) -> None:
    config = config_of(tmp_path, SERVICE.format("health: {path: /, statuses: [204, '300-301']}"))
    health = config.services["a"].health
    assert health is not None
    assert health.statuses == {204, 300, 301}


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("priority: 1", "routes[0]: needs an action: service, split, redirect, respond or health"),
        ("service: ", "routes[0].service: has no value"),
        ("service: a, respond: {}", "a route has one action, and this one has `service`"),
        ("service: b", "there is no service of this name"),
        ("split: []", "must not be empty"),
        ("split: [{service: a, weight: 0}]", "every weight is 0"),
        ("split: [{service: b, weight: 1}]", "there is no service of this name"),
        ("split: [{service: a}]", "routes[0].split[0].weight: is missing"),
        ("redirect: {to: example.com}", 'must begin with "/", "http://" or "https://"'),
        ("redirect: {to: '/{ix}'}", "the path has no parameter {ix}; its parameters: id"),
        ("redirect: {to: /, status: 200}", "must be 301, 302, 303, 307 or 308 (got 200)"),
        ("respond: {status: 204, body: x}", "an answer with status 204 has no body"),
        ('respond: {headers: {X-A: "a\\nb"}}', "no line breaks"),
        ("respond: {headers: {'a b': c}}", "must be a header's name"),
        ("respond: {headers: {Content-Length: '5'}}", "the gateway sets 'content-length' itself"),
        ("respond: {headers: {content-type: x}}", "write `content_type`"),
        ("respond: {}, rewrite: /x", "has no effect on a route with `respond`"),
        ("service: a, rewrite: x", 'must begin with "/"'),
        ("service: a, rewrite: '/x?{id}'", "no query"),
        ("service: a, rewrite: '/{id'", "a brace has no partner"),
        ("service: a, rewrite: '/{id...}'", 'did you mean "/{id}"?'),
        ("service: a, rewrite: /, strip_prefix: /a", "a route has `rewrite` or `strip_prefix`, not both"),
        ("service: a, strip_prefix: /b", 'does not begin with this (its fixed part is "/a")'),
        ("service: a, strip_prefix: /a/", 'must not end with "/" (got "/a/"); did you mean "/a"?'),
        ("service: a, strip_prefix: false", "must be a path such as"),
        ("service: a, limits: {}", "routes[0].limits.body: is missing"),
        ("service: a, timeouts: {}", "routes[0].timeouts: unknown key"),
    ],
)
def test_route_actions(tmp_path: Path, action: str, message: str) -> None:
    assert message in told(tmp_path, ROUTE.format(action))


@pytest.mark.parametrize(
    ("match", "message"),
    [
        ("{path: a}", "does not begin with"),
        ("{path: '~('}", "is not a valid regular expression"),
        ("{path: '/{a}/{a}'}", "two parameters"),
        ("{methods: GET}", "must be a list"),
        ("{methods: ['G T']}", 'must be a method such as "GET"'),
        ("{host: 'a:80'}", "has a port"),
        ("{host: [a, 'b c']}", "routes[0].match.host[1]"),
        ("{headers: {x: 1}}", "put quotes round a number"),
        ("{headers: {x: false}}", "true for presence"),
        ("{headers: {'x y': a}}", "must be a header's name"),
        ("{query: {x: '~['}}", "is not a valid regular expression"),
        ("x", "must be a mapping"),
    ],
)
def test_matches(tmp_path: Path, match: str, message: str) -> None:
    assert message in told(tmp_path, f"routes: [{{name: r, match: {match}, respond: {{}}}}]")


@pytest.mark.parametrize(
    ("path", "prefix", "good"),
    [
        ("/a/b/{rest...}", "/a", True),
        ("/a/b/{rest...}", "/a/b", True),
        ("/a/b", "/a/b", True),
        ("/ab/*", "/a", False),
        ("/{id}", "true", False),
        ("/a/{id}/b", "true", True),
        ("~^/a/.*$", "/a", False),
    ],
)
def test_prefixes_end_where_segments_do(tmp_path: Path, path: str, prefix: str, good: bool) -> None:
    route = f"{{name: r, match: {{path: '{path}'}}, service: a, strip_prefix: {prefix}}}"
    text = f"services: {{a: {{targets: [http://a]}}}}\nroutes: [{route}]"
    assert (load_text(tmp_path, text).config is not None) == good


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("listeners: []", "must not be empty"),
        ("listeners: [{bind: 'a:1', trusted_proxies: [10.0.0.1/8]}]", 'did you mean "10.0.0.0/8"?'),
        ("listeners: [{bind: 'a:1', trusted_proxies: [host]}]", "must be a network"),
        ("listeners: [{bind: 'a:1'}, {bind: 'A:1'}]", "listeners[0] binds to the same address"),
        ("listeners: [{bind: 'a:1', tls: {cert: gateway.yaml}}]", "listeners[0].tls.key: is missing"),
        ("limits: {header_count: 0}", "must be at least 1"),
        ("limits: {request_line: 1B}", "must be at least 64"),
        ("access_log: {destination: none/access.log}", "the folder of this file does not exist"),
        ("access_log: {destination: .}", "must be a file, not a folder"),
        ("access_log: {format: text}", "must be auto, json or human"),
        ("log: {format: text}", "must be auto, json or human"),
        ("log: {level: loud}", "must be auto, debug, info, warning or error"),
        ("log: {destination: x}", "unknown key"),
        ("debug: 2", "must be true or false"),
        ("access_log:", "must be true, false or a mapping"),
        ("adnim: {}", 'unknown key; did you mean "admin"?'),
        ("workers: 0", 'must be a whole number from 1 to 256, or "auto" (got 0)'),
        ("workers: 257", "must be a whole number from 1 to 256"),
        ("workers: true", "must be a whole number from 1 to 256"),
        ("workers: many", 'must be a whole number from 1 to 256, or "auto" (got "many")'),
        ("workers: '2'", "without quotes"),
        ("workers:", "must be a whole number from 1 to 256"),
        ("admin:", "admin: must be true, false or a mapping"),
        ("admin: on", "admin: must be a mapping"),
        ("admin: {token: }", "admin.token: must be a text, and has no value"),
        ("admin: {token: 12345678901234567890}", "admin.token: must be a text: put quotes round it"),
        ("admin: {token: 123456789o12345}", "admin.token: must have at least 16 characters"),
        ("admin: {token: 'a b c d e f g h i'}", "admin.token: must be visible ASCII"),
        ("admin: {bind: 9901}", "admin.bind: must be host:port"),
        ("listeners: [{bind: '127.0.0.1:9901'}]", "listeners[0].bind: the admin API (`admin.bind`) binds to the same"),
        ("shutdown: {grace: 5}", "shutdown.grace: must be a duration"),
        ("shutdown: {delay: -1s}", "shutdown.delay: must be a duration"),
        ("shutdown:", "shutdown: must be a mapping, and has no value"),
        ("watch: 1", "watch: must be true or false"),
        ("servces: {}", 'unknown key; did you mean "services"?'),
    ],
)
def test_the_other_sections(tmp_path: Path, text: str, message: str) -> None:
    assert message in told(tmp_path, text)


def test_processes_by_default(tmp_path: Path) -> None:
    config = config_of(tmp_path, "services:\n")
    assert (config.workers, config.watch) == (1, True)
    assert config.admin is not None
    assert (str(config.admin.bind), config.admin.token) == ("127.0.0.1:9901", "")
    assert (config.shutdown.delay, config.shutdown.grace) == (0, 30)


def test_an_admin_api_that_is_turned_off_takes_no_address(tmp_path: Path) -> None:
    config = config_of(tmp_path, "admin: false\nlisteners: [{bind: '127.0.0.1:9901'}]\n")
    assert config.admin is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "[::1]", "localhost", "LOCALHOST"])
def test_an_admin_api_on_loopback_needs_no_token(tmp_path: Path, host: str) -> None:
    config = config_of(tmp_path, f"admin: {{bind: '{host}:0', token: '${{ADMIN_TOKEN:-}}'}}\n")
    assert config.admin is not None
    assert config.admin.token == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "[::]", "[::ffff:127.0.0.1]", "gateway", "localhost.example"])
def test_an_admin_api_that_others_reach_needs_a_token(tmp_path: Path, host: str) -> None:
    assert messages(load_text(tmp_path, f"admin:\n  bind: '{host}:9901'\n")) == [
        "gateway.yaml:2:3: admin.bind: this address can be reached from other machines, so it needs `admin.token` "
        "(`openssl rand -hex 32` makes one); or bind to 127.0.0.1"
    ]
    config = config_of(tmp_path, f"admin: {{bind: '{host}:9901', token: 0123456789abcdef}}\n")
    assert "0123456789abcdef" not in repr(config)


def test_workers_as_a_variable_gives_them(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, "workers: ${WORKERS:-auto}\n")
    assert loaded.config is not None
    assert loaded.config.workers == "auto"
    loaded = load_text(tmp_path, "workers: ${WORKERS:-auto}\n", {"WORKERS": "3"})
    assert loaded.config is not None
    assert loaded.config.workers == 3


def test_a_token_is_never_shown(tmp_path: Path) -> None:
    told = messages(load_text(tmp_path, "admin: {bind: '0.0.0.0:1', token: hunter2hunter}\nadmin2: 1\n"))
    assert len(told) == 2
    assert "hunter2" not in "".join(told)


def test_sections_without_entries_are_empty(tmp_path: Path) -> None:
    config = config_of(tmp_path, "services:\nroutes:\nplugins:\naccess_log: false\n")
    assert (config.services, config.routes, config.plugins, config.access_log) == ({}, (), (), None)


def test_routes_that_cannot_both_be_meant(tmp_path: Path) -> None:
    text = "routes:\n" + "".join(
        f"  - {{name: {name}, match: {{path: '{path}'}}, respond: {{}}}}\n"
        for name, path in [("a", "/x/{id}"), ("b", "/x/{other}"), ("c", "bad"), ("d", "/y")]
    )
    found = messages(load_text(tmp_path, text))
    assert found[0].startswith("gateway.yaml:3:15: routes[1].match: route 'b' and route 'a' both take any method")
    assert found[1].startswith("gateway.yaml:4:29: routes[2].match.path")
    assert len(found) == 2


def test_every_key_is_described() -> None:
    models = ConfigModel.__subclasses__()
    assert GatewayConfig in models
    for model in models:
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
