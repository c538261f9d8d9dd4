"""What of a configuration is hidden, and that nothing else is."""

import time
from typing import Any

import pytest

from gatewright.admin.masking import MASK, mask, mask_text
from gatewright.telemetry.secrets import names_secret

SECRET = "hunter2-and-more"


@pytest.mark.parametrize(
    "name",
    [
        "secret", "token", "password", "passwd", "api_key", "apikey", "api-key", "x-api-key", "private_key",
        "client_secret", "credential", "credentials", "Authorization", "REDIS_PASSWORD", "JWT_SECRET", "ADMIN_TOKEN",
        "signing_key", "clientSecret", "dsn", "keys", "tokens", "passphrase",
    ],
)  # fmt: skip
def test_keys_that_name_secrets(name: str) -> None:
    assert names_secret(name)
    for value in (SECRET, 12345, [SECRET], {SECRET: SECRET}):
        assert mask({name: value}) == {name: MASK}
    for nothing in ("", None, True, False, [], {}):
        assert mask({name: nothing}) == {name: nothing}


@pytest.mark.parametrize(
    "name", ["key", "cert", "ca", "token_url", "password_file", "secret_name", "token_header", "by", "cookie", "path"]
)
def test_keys_that_do_not(name: str) -> None:
    assert not names_secret(name)
    assert mask({"tls": {name: "server.key"}}) == {"tls": {name: "server.key"}}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://user:hunter2@cache:6379/0", f"redis://user:{MASK}@cache:6379/0"),
        ("redis://:hunter2@cache", f"redis://:{MASK}@cache"),
        ("https://ghp_abc@host/path", f"https://{MASK}@host/path"),
        ("https://user:p@ss:w@host/x@y", f"https://user:{MASK}@host/x@y"),
        ("a http://u:p@h and http://v:q@i", f"a http://u:{MASK}@h and http://v:{MASK}@i"),
        ("/x?token=abc&page=2&api_key=d", f"/x?token={MASK}&page=2&api_key={MASK}"),
        ("https://h/?access_token=abc#f", f"https://h/?access_token={MASK}#f"),
        ("Bearer abcdefgh", f"Bearer {MASK}"),
        ("basic dXNlcjpwYXNz", f"basic {MASK}"),
        ("Bearer {header.x-token}", "Bearer {header.x-token}"),
        ("http://host:80/path@x?page=2", "http://host:80/path@x?page=2"),
        ("basic words of a text", "basic words of a text"),
        ("user@example.com", "user@example.com"),
        ("redis://:pa/s?s@cache:6379/0", f"redis://:{MASK}@cache:6379/0"),
        ("pg://u:pa/s@s@db/x", f"pg://u:{MASK}@db/x"),
        ("http://[::1]:80/path@x", "http://[::1]:80/path@x"),
        ("/x?sig=abc&code=d&X-Amz-Signature=e&page=2", f"/x?sig={MASK}&code={MASK}&X-Amz-Signature={MASK}&page=2"),
        ("Password=abc; Server=db;Pwd='d e'", f"Password={MASK}; Server=db;Pwd={MASK}"),
        ("host=db password=abc", f"host=db password={MASK}"),
        ("Token abcdefgh", f"Token {MASK}"),
        ("curl -H 'Authorization: Bearer abcdefgh'", f"curl -H 'Authorization: Bearer {MASK}'"),
        ("a -----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY----- b", f"a {MASK} b"),
        ("http://tokens:8001", "http://tokens:8001"),
        ("services.auth.tokens:app", "services.auth.tokens:app"),
        ("token is missing", "token is missing"),
        ("a=1; b=2", "a=1; b=2"),
    ],
)
def test_secrets_within_texts(text: str, shown: str) -> None:
    assert mask_text(text) == shown
    assert mask({"a": [text]}) == {"a": [shown]}


@pytest.mark.parametrize(
    "name",
    [
        "Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "X-Api-Key", "x-auth-token", "X-Auth",
        "x-session", "X-Session-Id",
    ],
)  # fmt: skip
def test_header_fields_that_carry_credentials(name: str) -> None:
    for edit in ("set", "add"):
        plugin = {"headers": {"request": {edit: {name: SECRET, "X-Other": "kept"}}}}
        assert mask({"plugins": [plugin]}) == {
            "plugins": [{"headers": {"request": {edit: {name: MASK, "X-Other": "kept"}}}}]
        }
    assert mask({"match": {"headers": {name: SECRET}}}) == {"match": {"headers": {name: MASK}}}
    assert mask({"respond": {"headers": {name: SECRET}}}) == {"respond": {"headers": {name: MASK}}}


@pytest.mark.parametrize("name", ["sig", "code", "key", "session", "access_token"])
def test_parameters_that_carry_credentials(name: str) -> None:
    assert mask({"match": {"query": {name: SECRET, "page": "2"}}}) == {"match": {"query": {name: MASK, "page": "2"}}}
    assert mask({"match": {"query": {name: True}}}) == {"match": {"query": {name: True}}}


@pytest.mark.parametrize("name", ["pin", "session", "auth", "signature", "x_auth"])
def test_settings_that_are_secret_only_as_a_whole(name: str) -> None:
    assert mask({name: SECRET, f"{name}s": "a"}) == {name: MASK, f"{name}s": "a"}
    assert mask({name: {"ttl": "5m", name: 1234}}) == {name: {"ttl": "5m", name: MASK}}


def test_names_of_fields_stay() -> None:
    data: Any = {"remove": ["Cookie", "Authorization"], "rename": {"Authorization": "X-Old"}}
    assert mask(data) == data
    assert mask({"claims_to_headers": {"sid": "X-Sid"}}) == {"claims_to_headers": {"sid": "X-Sid"}}
    assert mask({"balance": {"sticky": {"cookie": "gw"}}}) == {"balance": {"sticky": {"cookie": "gw"}}}


def test_a_plugin_whose_name_sounds_secret_shows_its_other_settings() -> None:
    plugins = [{"api_key": {"header": "x-key", "keys": {SECRET: "alice"}}}, {"use": "a.b:C", "token": SECRET}, "jwt"]
    assert mask({"plugins": plugins}) == {
        "plugins": [{"api_key": {"header": "x-key", "keys": MASK}}, {"use": "a.b:C", "token": MASK}, "jwt"]
    }


def test_values_of_secret_variables_are_hidden_wherever_they_stand() -> None:
    data = {"a": f"x {SECRET} y", "b": [SECRET], SECRET: 1, "c": "hunter2", "d": "abc"}
    shown = mask(data, {SECRET, "hunter2", "abc"})
    assert shown == {"a": f"x {MASK} y", "b": [MASK], MASK: 1, "c": MASK, "d": "abc"}
    shown = mask({"host": SECRET.lower(), "n": [8841227733, 12.5, 200]}, {SECRET.upper(), "8841227733", "12.5", "200"})
    assert shown == {"host": MASK, "n": [MASK, MASK, 200]}


@pytest.mark.parametrize(
    "text",
    [
        *("://" + "a" * 200_000, "://a" * 50_000, "://a:b" * 50_000, "Bearer " * 30_000),
        *("?" + "a" * 200_000, "?a=" * 50_000, ";a=" * 50_000, "a='" * 50_000, 'a="' * 50_001),
    ],
    ids=lambda text: text[:4],
)
def test_long_texts_take_no_time(text: str) -> None:
    begun = time.process_time()
    mask_text(text, {SECRET, "hunter2"})
    assert time.process_time() - begun < 1


def test_what_a_collector_is_sent_is_hidden_whatever_it_is_called() -> None:
    shown = mask({"endpoint": "http://c:4318", "headers": {"X-Team": SECRET}}, key="tracing")
    assert shown == {"endpoint": "http://c:4318", "headers": {"X-Team": MASK}}
