"""What is taken out of messages before they are logged: no secret gets by, cut off, nested or spelt in any way."""

import contextlib
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewright.telemetry.redaction import Redaction, completed
from gatewright.telemetry.secrets import field_is_secret, member_is_secret, names_secret, parameter_is_secret

DEFAULT = Redaction()
SECRET = "s3cr3t-s3cr3t"
HIDDEN = "[redacted]"


@pytest.mark.parametrize(
    "name",
    [
        *("Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "X-Api-Key", "X-Auth", "X-Auth-Token"),
        *("X-CSRF-Token", "Ocp-Apim-Subscription-Key", "X-Amz-Security-Token", "X-Vault-Token", "x_api_key"),
        *("X-Session-Id", "x-sid", "X-XSRF", "X-Amz-Signature"),
    ],
)
def test_fields_that_carry_credentials(name):
    assert DEFAULT.field(name, SECRET) == HIDDEN


@pytest.mark.parametrize("name", ["Host", "User-Agent", "X-Request-ID", "Content-Type", "Idempotency-Key", "Author"])
def test_fields_that_do_not(name):
    assert DEFAULT.field(name, SECRET) == SECRET


@pytest.mark.parametrize(
    "name",
    [
        *(
            "password",
            "passwd",
            "newPassword",
            "pwd",
            "access_token",
            "accessToken",
            "refreshToken",
            "id-token",
            "token",
        ),
        *(
            "secret",
            "client_secret",
            "clientSecret",
            "apiKey",
            "api_key",
            "private.key",
            "credentials",
            "jwt",
            "session",
        ),
        *("sessionId", "session_id", "SID", "otp", "pin", "cvv", "card_number", "cardNumber", "signature", "auth"),
    ],
)
def test_members_that_are_secret(name):
    assert member_is_secret(name)
    assert parameter_is_secret(name)


@pytest.mark.parametrize("name", ["user", "name", "id", "email", "monkey", "pinned", "author", "count", "message"])
def test_members_that_are_not(name):
    assert not member_is_secret(name)
    assert not parameter_is_secret(name)


def test_codes_and_keys_are_secret_in_addresses_and_forms_only():
    assert [parameter_is_secret(name) for name in ("code", "key", "Code")] == [True] * 3
    assert [member_is_secret(name) for name in ("code", "key")] == [False] * 2


@given(st.text(max_size=20))
def test_logs_hide_all_that_the_admin_api_hides(name):
    for each in (name, f"{name}token", f"my_{name}_secret"):
        if names_secret(each) or (field_is_secret(each) and "cookie" not in each.lower()):
            assert member_is_secret(each)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def in_secret(value):
    """The same document, in which every text and number below a secret name holds SECRET."""
    return {"kept": value, "password": SECRET, "list": [{"accessToken": {"deep": [SECRET, value]}}, value], "pin": 731}


@given(VALUES, st.integers(0, 400))
def test_json_at_any_depth_whole_or_cut(value, length):
    text = json.dumps(in_secret(value))
    shown = DEFAULT.json(text)
    document = json.loads(shown)
    assert SECRET not in shown
    assert (document["password"], document["list"][0]["accessToken"], document["pin"]) == (HIDDEN,) * 3
    cut = DEFAULT.json(text[:length], cut=True)
    assert not any(SECRET[:size] in cut for size in (4, len(SECRET)))
    assert "731" not in cut.replace(json.dumps(value), "")
    if cut:
        json.loads(cut)


@given(VALUES)
def test_what_is_no_secret_stays(value):
    clean = json.loads(json.dumps({"a": value}))
    if not any(word in json.dumps(clean).lower() for word in ("[", "eyj", "bearer", "basic", "dpop", "://", "=")):
        assert json.loads(DEFAULT.json(json.dumps(clean))) == clean or "{" in json.dumps(value)


@given(VALUES, st.integers(0, 200))
def test_a_beginning_is_completed_to_json(value, length):
    text = json.dumps([value, {"a": value}])
    cut = completed(text[:length])
    if cut:
        json.loads(cut)


def test_a_beginning_shows_what_is_whole_of_it():
    text = '{"user": "bob", "items": [1, 2, {"id": 7, "note": "half'
    assert DEFAULT.json(text, cut=True) == '{"user":"bob","items":[1,2,{"id":7}]}'
    assert DEFAULT.json('"only a te', cut=True) == ""


@pytest.mark.parametrize(
    "text", ["{password: s3cr3t}", "{'password': 's3cr3t'}", '{"password" "s3cr3t"}', '{"a": 1', "password=s3cr3t", ""]
)
def test_what_is_not_json_is_not_shown(text):
    with pytest.raises(ValueError):
        DEFAULT.json(text)


def test_brackets_without_end():
    with pytest.raises(ValueError):
        DEFAULT.json("[" * 60_000, cut=True)


@pytest.mark.parametrize("levels", range(1, 6))
def test_json_in_json(levels):
    text = json.dumps({"password": SECRET})
    for _ in range(levels):
        text = json.dumps({"payload": text})
    assert SECRET not in DEFAULT.json(text)


def test_a_text_that_only_begins_as_json_does():
    shown = DEFAULT.json(json.dumps({"log": f"[12:00] password: {SECRET}"}))
    assert SECRET not in shown
    assert "12:00" in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a=1&password=x&b=2", "a=1&password=[redacted]&b=2"),
        ("user%5Bpassword%5D=x&code=y", "user%5Bpassword%5D=[redacted]&code=[redacted]"),
        ("a=1&client_sec", "a=1&client_sec"),
        ("a=1&client_secret=ha", "a=1&client_secret=[redacted]"),
        ("next=https://u:p@h/?token=x", "next=https://[redacted]@h/?token=[redacted]"),
    ],
)
def test_forms(text, shown):
    assert DEFAULT.form(text) == shown


JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "text",
    [
        f"Bearer {SECRET}",
        f"basic {SECRET}",
        f"https://user:{SECRET}@example.com/",
        f"/callback?access_token={SECRET}",
        f"https://example.com/#id_token={SECRET}&state=1",
        f"/a?b=1&next=https://example.com/?token={SECRET}?{SECRET}",
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}",
    ],
)
def test_credentials_wherever_they_stand(text):
    assert SECRET not in DEFAULT.credentials(text)
    assert SECRET not in DEFAULT.field("X-Note", text)
    assert SECRET not in DEFAULT.json(json.dumps({"note": text}))


def test_tokens_are_known_by_their_form():
    assert DEFAULT.credentials(f"it is {JWT}, and {JWT[:30]}") == f"it is {HIDDEN}, and {HIDDEN}"


@pytest.mark.parametrize(
    "text",
    [
        f"password: {SECRET} {SECRET}\nnext",
        f"api_key={SECRET}; x=1",
        f"<user><password>{SECRET}</password></user>",
        f'data: {{"token": "{SECRET} {SECRET}"}}\n\n',
        f"token: '{SECRET} {SECRET}'",
        f"12:00 note: password: {SECRET}",
    ],
)
def test_texts_without_a_grammar(text):
    assert SECRET not in DEFAULT.text(text)


def test_a_text_keeps_what_is_no_secret():
    assert DEFAULT.text("user: bob\npassword: x\nid=7") == "user: bob\npassword: [redacted]\nid=7"


def test_names_can_be_added_and_taken_out():
    redaction = Redaction(more=["National-ID"], shown=["max_tokens", "X-Token-Count"])
    text = json.dumps({"nationalId": SECRET, "max_tokens": 512, "token": SECRET})
    assert json.loads(redaction.json(text)) == {"nationalId": HIDDEN, "max_tokens": 512, "token": HIDDEN}
    assert redaction.field("X-Token-Count", "7") == "7"
    assert redaction.field("national_id", "7") == HIDDEN
    assert redaction.form("national-id=1&max-tokens=2") == "national-id=[redacted]&max-tokens=2"


HOSTILE = [
    *("a" * 65536, "eyJ" * 20000, "://" * 20000, "?a" * 30000, "a:" * 30000, '"' * 60000, "Bearer " * 9000),
    *(" " * 60000 + "x", ("a" * 64 + " " * 9) * 900, "-----BEGIN PRIVATE KEY-----" * 2000, "\\" * 60000),
    *("&a=" * 20000, '{"a":' * 10000, "[1," * 20000, '"\\' * 30000),
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:12])
def test_no_text_takes_long(text):
    began = time.process_time()
    DEFAULT.text(text)
    DEFAULT.form(text)
    completed(text)
    with contextlib.suppress(ValueError):
        DEFAULT.json(text, cut=True)
    assert time.process_time() - began < 1.0  # 0.05 s; what is quadratic takes minutes
