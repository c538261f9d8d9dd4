"""What errors do not show: secrets, by the keys that they stand under, by variables, by their looks."""

from pathlib import Path

import pytest

from gatewright.control.loader import load
from tests.control.sample import load_text, messages

SECRET = "s3cr3t_value"
KEYED = """
from gatewright import Plugin, PluginConfig
from pydantic import field_validator

class KeyedConfig(PluginConfig):
    api_key: str = ""
    color: str = ""

    @field_validator("api_key", "color")
    @classmethod
    def _refuse(cls, value):
        raise ValueError(f"{value!r} will not do")

class Keyed(Plugin[KeyedConfig]):
    pass
"""


@pytest.mark.parametrize(
    "text",
    [
        "services: {a: {targets: ['${S}']}}",
        "services: {a: {targets: ['http://${S}/path']}}",
        "listeners: [{bind: '${S}'}]",
        "limits: {body: '${S}'}",
        "access_log: {format: '${S}'}",
        "access_log: '${S}'",
        "routes: [{name: a, match: {path: '/a/{${S}'}, service: '${S}'}]",
        "routes: [{name: a, match: {path: '~(${S}', host: '${S}!'}, service: x}]",
        "routes: [{name: '${S}', match: {path: /}, respond: {}}, {name: '${S}', match: {path: '/${S}'}, respond: {}}]",
        "routes: [{name: a, match: {path: '/${S}'}, respond: {}}, {name: b, match: {path: '/${S}'}, respond: {}}]",
        "plugins: ['${S}']",
        "plugins: [settled: {size: '${S}'}]",
        "plugins: [settled: {size: 13, secret: '${S}'}]",
        "plugins: [{use: 'broken:${S}'}]",
        "plugins: [settled: {size: 13, secret: 'x', inner: '${S}'}]",
        "services: {a: {app: '${S}', balance: '${S}', host: '/${S}'}}",
    ],
)
def test_what_a_variable_holds_is_never_shown(tmp_path: Path, text: str) -> None:
    loaded = load_text(tmp_path, text, {"S": SECRET})
    told = "\n".join(messages(loaded))
    assert loaded.errors
    assert SECRET not in told
    assert "${S}" in told


def test_literal_credentials_are_not_shown_either(tmp_path: Path) -> None:
    told = messages(
        load_text(tmp_path, "plugins: [settled: {size: 1, secret: 12345}]\nservices: {a: {targets: ['http://u:pw@h']}}")
    )
    assert told[0] == "gateway.yaml:1:38: plugins[0].settled.secret: must be a text: put quotes round it"
    assert "pw" not in told[1]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("state: {redis: 'redis://:a/hunter2@cache:x/0'}", 'got "redis://***@cache:x/0"'),
        ("services: {a: {targets: ['http://u:a/hunter2@h:1']}}", 'got "http://***@h:1"'),
        ("services: {a: {targets: ['http://u:%s@h/']}}" % ("hunter2" * 9), 'got "http://***@h/"'),
        ("services: {a: {targets: ['http://h/?page=hunter2']}}", 'got "http://h/?***"'),
        ("services: {a: {targets: ['h:1/?token=hunter2']}}", "?token=[redacted]"),
        ("consul: {address: 'http://h?api_key=hunter2'}", 'got "http://h?***"'),
        ("tracing: {endpoint: 'http://h?api_key=hunter2'}", 'got "http://h?***"'),
        ('tracing: {headers: {x-team: "hunter2\\n"}}', "no line breaks or control characters"),
        ('routes: [{name: a, match: {headers: {x-auth: "~(hunter2"}}, respond: {}}]', "the value is not a valid regular"),
        ('routes: [{name: a, match: {query: {code: "~(hunter2"}}, respond: {}}]', "the value is not a valid regular"),
        ('routes: [{name: a, match: {headers: {x-a: "~(hunt"}}, respond: {}}]', 'missing ), unterminated subpattern at '
         'position 0 (got "~(hunt")'),
        ('routes: [{name: a, match: {}, respond: {headers: {X-Session-Id: "hunter2\\n"}}}]', "control characters"),
        ("routes: [{name: a, match: {}, redirect: {to: 'x://u@h/?sig=hunter2'}}]", 'got "x://***@h/?***"'),
        ("listeners: [{bind: 'a:1', tls: {cert: '-----BEGIN PRIVATE KEY-----hunter2', key: b}}]", 'got "[redacted]"'),
        ("plugins: [{use: 'a:B', size: 1, secret: 5}, {use: 'a:B', size: 'Bearer hunter2-hunter2'}]",
         'got "Bearer [redacted]"'),
    ],
)  # fmt: skip
def test_what_looks_like_a_credential_is_not_quoted(tmp_path: Path, text: str, shown: str) -> None:
    told = "\n".join(messages(load_text(tmp_path, text)))
    assert "hunter2" not in told
    assert shown in told


def test_a_message_that_quotes_a_secret_is_told_without_it(tmp_path: Path) -> None:
    """Checks of users' plugins say what they like."""
    (tmp_path / "keyed.py").write_text(KEYED)
    path = tmp_path / "gateway.yaml"
    path.write_text("plugins: [{use: './keyed.py:Keyed', api_key: hunter2}, {use: './keyed.py:Keyed', color: red}]\n")
    secret, other = messages(load(path, {}))
    assert secret.endswith("plugins[0].api_key: '[redacted]' will not do")
    assert other.endswith("plugins[1].color: 'red' will not do")
