"""The effective configuration: what it says is what runs, in the form of a file."""

from pathlib import Path

import pytest
import yaml

from gatewright.admin.effective import effective
from gatewright.admin.masking import MASK
from gatewright.control.loader import load
from gatewright.control.models import GatewayConfig
from tests.control.sample import FULL

TLS = """\
listeners: [{bind: "[::1]:8443", tls: {cert: a.pem, key: a.pem}, trusted_proxies: [10.0.0.0/8, "::1"]}]
access_log: false
limits: {body: unlimited, header_timeout: 1500ms, headers: 40000, write_timeout: 0}
services:
  tokens:
    targets: ["https://a.test"]
    tls: {ca: a.pem}
    health: {path: /h, statuses: [200-204, 301, "400-499"], interval: 0.75s}
    timeouts: {response: 0, connect: 1.25s}
    breaker: {failure_rate: 12.5%, minimum: 3}
    outlier: false
    balance: {sticky: {ttl: 1d}}
routes:
  - {name: a, match: {path: /a, query: {q: true}}, service: tokens, limits: {body: 0}}
  - {name: b, match: {path: /b}, redirect: {to: /c}}
plugins: [some, {other: {a: null, b: [1, {c: 2.5}]}}, {use: "x.y:Z", d: 1}]
"""

DOLLARS = """\
services: {a: {targets: ["http://a"], health: {path: "/h?$$$$"}}}
routes:
  - {name: a, match: {path: "~^/x$", headers: {x-a: "$${A}"}}, respond: {body: "$$5 of $${HOME} at $$$$ $x"}}
plugins: [{other: {a: "$${A:-}", b: [{c: "$$$$"}], "$$x${A}": "$$$$"}}, {use: "x.y:Z", d: "$${A}"}]
"""


def loaded(folder: Path, text: str) -> GatewayConfig:
    (folder / "a.pem").touch()
    path = folder / "gateway.yaml"
    path.write_text(text)
    found = load(path, {}, plugins=None)
    assert found.config is not None, [str(error) for error in found.errors]
    return found.config


@pytest.mark.parametrize("text", ["{}", FULL, TLS, DOLLARS], ids=["empty", "full", "tls", "dollars"])
def test_it_loads_as_the_same_configuration(tmp_path: Path, text: str) -> None:
    config = loaded(tmp_path, text)
    assert loaded(tmp_path, yaml.safe_dump(effective(config))) == config


def test_it_is_written_as_people_write_it(tmp_path: Path) -> None:
    shown = effective(loaded(tmp_path, TLS))
    service = shown["services"]["tokens"]
    assert shown["listeners"][0]["bind"] == "[::1]:8443"
    assert shown["listeners"][0]["tls"]["key"] == str(tmp_path / "a.pem")
    assert (shown["access_log"], shown["limits"]["headers"], shown["limits"]["body"]) == (False, "40000B", 0)
    assert service["health"]["statuses"] == ["200-204", 301, "400-499"]
    assert (service["timeouts"]["connect"], service["timeouts"]["response"]) == ("1250ms", 0)
    assert (service["breaker"]["failure_rate"], service["outlier"], service["balance"]) == (
        "12.5%",
        False,
        {"sticky": {"cookie": "gw_sticky", "ttl": "1d"}},
    )
    assert shown["plugins"] == ["some", {"other": {"a": None, "b": [1, {"c": 2.5}]}}, {"use": "x.y:Z", "d": 1}]


def test_secrets_are_hidden(tmp_path: Path) -> None:
    text = """
admin: {token: 0123456789abcdef}
plugins: [{jwt: {secret: abcdefgh, url: "https://u:secretpass@h"}}, {headers: {request: {set: {X-A: from-variable}}}}]
"""
    shown = effective(loaded(tmp_path, text), {"from-variable"})
    assert shown["admin"]["token"] == MASK
    assert shown["plugins"] == [
        {"jwt": {"secret": MASK, "url": f"https://u:{MASK}@h"}},
        {"headers": {"request": {"set": {"X-A": MASK}}}},
    ]


def test_a_secret_with_dollar_signs_is_hidden_too(tmp_path: Path) -> None:
    shown = effective(loaded(tmp_path, 'plugins: [{other: {a: "x pa$$$$w$${or}d y"}}]'), {"pa$$w${or}d"})
    assert shown["plugins"] == [{"other": {"a": f"x {MASK} y"}}]


def test_no_token_is_shown_as_none(tmp_path: Path) -> None:
    assert effective(loaded(tmp_path, "{}"))["admin"] == {"bind": "127.0.0.1:9901", "token": ""}
    assert effective(loaded(tmp_path, "admin: false"))["admin"] is False
