"""What may stand in the sections of discovery: values, rules between keys, defaults that depend on the machine."""

from pathlib import Path

import jsonschema
import pytest
import yaml

from gatewright.admin.effective import effective
from gatewright.control.discovery.wanted import configured, identity, wanted
from gatewright.control.discovery_models import default_folder
from gatewright.control.loader import load
from gatewright.control.models import GatewayConfig
from gatewright.control.schema import json_schema


def read(folder: Path, text: str) -> GatewayConfig:
    loaded = load(folder / "gateway.yaml", {}, text=text)
    assert loaded.config is not None, loaded.errors
    return loaded.config


SERVICE = "services: {{s: {{discover: {{{}}}}}}}"


@pytest.mark.parametrize(
    ("discover", "message"),
    [
        ("", "discover: needs `consul` or `dns`"),
        ("consul: {service: a}, dns: {name: a, port: 1}", "a service has `consul` or `dns`, not both"),
        ("consul: {}", "discover.consul.service: is missing"),
        ("consul: {service: ''}", "must not be empty"),
        ("consul: {service: a/b}", "none of / ? #"),
        ("consul: {service: a, tags: [a b]}", "tags[0]: must not be empty, and have no blanks"),
        ("consul: {service: a, address: 'ftp://a'}", "the scheme must be http or https"),
        ("consul: {service: a, address: 'http://a/v1'}", "has no path"),
        ('consul: {service: a, token: "a\\nb"}', "no line breaks"),
        ("consul: {service: a, wait: 11m}", "must be at most 10m"),
        ("consul: {service: a, wait: 0s}", "must be longer than zero"),
        ("consul: {service: a, scheme: h2c}", "must be http or https"),
        ("consul: {service: a, ca: missing.pem}", "cannot be read"),
        ("consul: {service: a, address: ''}", "there is no Consul agent to ask"),
        ("dns: {port: 1}", "discover.dns.name: is missing"),
        ("dns: {name: a}", "discover.dns: needs `port` or `srv: true`"),
        ("dns: {name: a, port: 1, srv: true}", "write `port` or `srv: true`, not both"),
        ("dns: {name: a, srv: false}", "discover.dns.srv: must be true"),
        ("dns: {name: a, port: 0}", "discover.dns.port"),
        ("dns: {name: 'a b', port: 1}", "must be a DNS name"),
        ("dns: {name: a..b, port: 1}", "must be a DNS name"),
        ("dns: {name: a, port: 1, resolver: dns.test}", "must be an address"),
        ("dns: {name: a, port: 1, resolver: '10.0.0.1:0'}", "must be an address"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, discover: str, message: str) -> None:
    loaded = load(tmp_path / "gateway.yaml", {}, text=SERVICE.format(discover))
    assert loaded.config is None
    assert any(message in str(error) for error in loaded.errors), [str(error) for error in loaded.errors]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("services: {s: {app: 'a:b', discover: {dns: {name: a, port: 1}}}}", "has no effect on a service with `app`"),
        ("consul: {address: '', register: {}}", "consul.register: there is no agent to tell"),
        ("consul: {register: {check: {path: health}}}", 'must be a path such as "/health"'),
        ("discovery: {folder: true}", "must be the path of a file"),
        ("routes: [{name: h, match: {path: /h}, health: {services: [s]}}]", "there is no service of this name"),
        ("routes: [{name: h, match: {path: /h}, health: {}, rewrite: /}]", "has no effect on a route with `health`"),
    ],
)
def test_what_is_wrong_around_it_too(tmp_path: Path, text: str, message: str) -> None:
    errors = [str(error) for error in load(tmp_path / "gateway.yaml", {}, plugins=None, text=text).errors]
    assert any(message in error for error in errors), errors


FULL = """
consul:
  address: consul.internal
  token: "01234567"
  datacenter: dc2
  register: {name: edge, id: one, address: 10.0.0.1, port: 443, tags: [a], meta: {b: c}, check: {path: /h, remove_after: 0}}
discovery: {folder: state}
services:
  a: {discover: {consul: {service: a, tags: [x], stale: true, passing: false, wait: 5m, keep: 1s, scheme: https}}}
  b: {targets: ["http://b"], discover: {consul: {service: b, address: "", token: ""}}}
  c: {discover: {dns: {name: C.Test., port: 80, resolver: "[::1]:53", ipv6: false, tcp: true, interval: 1s, keep: 0s}}}
  d: {discover: {dns: {name: _http._tcp.d.test, srv: true, resolver: "[::1]:8600"}}}
"""


def test_all_of_it(tmp_path: Path) -> None:
    text = FULL
    config = read(tmp_path, text)
    jsonschema.validate(yaml.safe_load(text), json_schema())
    found = {name: wanted(config, service) for name, service in config.services.items()}
    assert (found["a"].address, found["a"].token, found["a"].datacenter) == (
        "http://consul.internal",
        "01234567",
        "dc2",
    )  # type: ignore[union-attr]
    assert found["b"] is None
    assert [each.url for each in configured(config.services["b"])] == ["http://b"]
    assert (found["c"].name, str(found["c"].resolver)) == ("c.test", "[::1]:53")  # type: ignore[union-attr]
    assert config.discovery.folder == tmp_path / "state"
    shown = effective(config)
    assert shown["consul"]["token"] == "***hidden***"
    assert shown["services"]["a"]["discover"]["consul"]["wait"] == "5m"
    shown["consul"]["token"] = "01234567"
    shown["services"]["b"]["discover"]["consul"].setdefault("token", "")
    again = read(tmp_path, yaml.safe_dump({name: shown[name] for name in ("consul", "discovery", "services")}))
    assert (again.services, again.consul, again.discovery) == (config.services, config.consul, config.discovery)


def test_an_identity_is_what_is_looked_for(tmp_path: Path) -> None:
    def of(consul: str, common: str = "") -> str:
        config = read(
            tmp_path, f"consul: {{{common}}}\nservices: {{s: {{discover: {{consul: {{service: a{consul}}}}}}}}}"
        )
        terms = wanted(config, config.services["s"])
        assert terms is not None
        return identity(terms)

    same = {of(""), of(", token: abc"), of(", stale: true, wait: 1m, keep: 1s"), of("", "token: x")}
    same |= {of(", address: '127.0.0.1:8500'")}
    assert len(same) == 1
    others = {
        of(", tags: [a]"),
        of(", passing: false"),
        of(", datacenter: b"),
        of("", "address: b"),
        of(", scheme: https"),
    }
    assert len(same | others) == 6
    assert of(", tags: [a, b]") == of(", tags: [b, a]")


def test_where_answers_are_kept(monkeypatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/one:/var/lib/two")
    assert default_folder() == Path("/var/lib/one")
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_folder() == Path("/state/gatewright")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_folder() == Path("/home/me/.local/state/gatewright")
