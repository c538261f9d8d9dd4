"""The configuration over the API: shown, validated, replaced under a condition, reloaded."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml

from gatewright.admin import configuring
from gatewright.admin.configuring import _yaml_of
from gatewright.control.loader import load
from tests.kit.admin import CONFIG, FakeOperations, RunningAdmin, run_admin
from tests.kit.wire import TIMEOUT, Answer

OTHER = "routes:\n  - {name: other, match: {path: /other}, respond: {body: hi}}\n"
BAD = "routes:\n  - {name: a, match: {path: /a}, servise: x}\nlimits: {body: 5}\nfoo: 1\n"
YAML = "application/yaml"
ONLY_JSON = (
    "\x7f\x80\x85\x9f\u2028\u2029\ufeff\ufffe\uffff"  # YAML has them escaped only, or takes them for line breaks
)


def put(admin: RunningAdmin, text: str, path: str = "/config", kind: str = YAML, **fields: str) -> Answer:
    return admin.ask("PUT", path, text.encode(), content_type=kind, **fields)


def problem(answer: Answer) -> tuple[int, str]:
    assert answer.get("content-type") == "application/problem+json"
    return answer.status, json.loads(answer.body)["reason"]


def test_it_is_shown_with_its_version(admin: RunningAdmin) -> None:
    answer = admin.ask("GET", "/config")
    assert (answer.status, answer.get("etag")) == (200, admin.operations.version)
    config = json.loads(answer.body)
    assert config["listeners"] == [{"bind": "0.0.0.0:8080", "trusted_proxies": []}]
    assert config["services"]["shop"]["breaker"]["failure_rate"] == "50%"


@pytest.mark.parametrize("form", ["{}", "W/{}", '"x", {}', '"a,b" , {},', "*"])
def test_who_has_it_gets_it_not_again(admin: RunningAdmin, form: str) -> None:
    answer = admin.ask("GET", "/config", if_none_match=form.format(admin.operations.version))
    assert (answer.status, answer.body, answer.get("etag")) == (304, b"", admin.operations.version)
    assert admin.ask("GET", "/config", if_none_match='"x"').status == 200
    assert admin.ask("GET", "/config", if_none_match=admin.operations.version.strip('"')).status == 200


def test_it_is_replaced(admin: RunningAdmin) -> None:
    before = admin.operations.version
    answer = put(admin, OTHER, if_match=before)
    assert answer.status == 200
    assert answer.get("etag") == admin.operations.version != before
    assert json.loads(answer.body) == {"version": admin.operations.version, "changed": True}
    assert admin.operations.calls == [("apply", OTHER, before, False)]
    assert [route["name"] for route in json.loads(admin.ask("GET", "/routes").body)] == ["other"]


def test_it_is_saved_only_when_asked(admin: RunningAdmin) -> None:
    assert put(admin, OTHER, "/config?save=true", if_match="*").status == 200
    assert put(admin, OTHER, "/config?save=false", if_match="*").status == 200
    assert admin.operations.calls == [("apply", OTHER, None, True), ("apply", OTHER, None, False)]
    assert problem(put(admin, OTHER, "/config?save=perhaps", if_match="*")) == (422, "invalid_request")


def test_without_a_condition_nothing_is_replaced(admin: RunningAdmin) -> None:
    assert problem(put(admin, OTHER)) == (428, "version_required")
    assert admin.operations.calls == []


@pytest.mark.parametrize("tag", ['"old"', "W/{}", "", "nonsense", '"old", "older"'])
def test_another_version_is_not_replaced(admin: RunningAdmin, tag: str) -> None:
    version = admin.operations.version
    answer = put(admin, OTHER, if_match=tag.format(version))
    assert problem(answer) == (412, "version_mismatch")
    assert answer.get("etag") == version
    assert admin.operations.calls == []


def test_one_of_several_versions_will_do(admin: RunningAdmin) -> None:
    version = admin.operations.version
    assert put(admin, OTHER, if_match=f'"old", {version}').status == 200
    assert admin.operations.calls == [("apply", OTHER, version, False)]


@pytest.mark.parametrize("form", ["w/{}", "x{}", "{}x", "*, {}", "{}, *", "{} {}", "{}; {}"])
def test_what_is_no_list_of_tags_names_no_version(admin: RunningAdmin, form: str) -> None:
    field = form.replace("{}", admin.operations.version)
    assert problem(put(admin, OTHER, if_match=field)) == (412, "version_mismatch")
    assert admin.ask("GET", "/config", if_none_match=field).status == 200


def test_fields_of_one_name_count_together(admin: RunningAdmin) -> None:
    version = admin.operations.version
    for one, other in ((version, '"old"'), ('"old"', version)):
        assert admin.ask("GET", "/config", if_none_match=one, If_None_Match=other).status == 304
        assert put(admin, CONFIG, if_match=one, If_Match=other).status == 200
    assert problem(put(admin, OTHER, if_match="*", If_Match=version)) == (412, "version_mismatch")


def test_a_version_that_changes_meanwhile_is_not_replaced(admin: RunningAdmin, monkeypatch: pytest.MonkeyPatch) -> None:
    operations = admin.operations
    version, real = operations.version, operations.apply

    async def late(text: str, expected: str | None, save: bool) -> Any:
        operations.text += "# somebody was faster\n"
        return await real(text, expected, save)

    monkeypatch.setattr(operations, "apply", late)
    answer = put(admin, OTHER, if_match=version)
    assert problem(answer) == (412, "version_mismatch")
    assert answer.get("etag") == operations.version != version


def test_everything_that_is_wrong_is_told_with_its_place(admin: RunningAdmin) -> None:
    validated = admin.ask("POST", "/config/validate", BAD.encode(), content_type=YAML)
    before = admin.operations.version
    applied = put(admin, BAD, if_match="*")
    assert problem(validated) == problem(applied) == (422, "invalid_configuration")
    errors = json.loads(applied.body)["errors"]
    assert json.loads(validated.body)["errors"] == errors
    assert [(error["line"], error["column"], error["path"]) for error in errors] == [
        (2, 5, "routes[0]"),
        (2, 34, "routes[0].servise"),
        (4, 1, "foo"),
    ]
    assert errors[1]["suggestion"] == "service"
    assert errors[0].keys() == {"file", "line", "column", "path", "message"}
    assert admin.operations.version == before


def test_validation_changes_nothing(admin: RunningAdmin) -> None:
    before = admin.operations.version
    answer = admin.ask("POST", "/config/validate", OTHER.encode(), content_type=YAML)
    assert (answer.status, json.loads(answer.body)) == (200, {"valid": True})
    assert admin.operations.calls == [("check", OTHER)]
    assert admin.operations.version == before


def test_json_is_taken_too(admin: RunningAdmin) -> None:
    config = {
        "routes": [
            {"name": "a", "match": {"path": "/a"}, "respond": {"body": "\U0001f600 é / \\ \\/ \n \" '" + ONLY_JSON}}
        ]
    }
    for text in (json.dumps(config), json.dumps(config, indent="\t", ensure_ascii=False).replace(" / ", " \\/ ")):
        answer = put(admin, text, kind="application/json; charset=utf-8", if_match="*")
        assert answer.status == 200, answer.body
        assert admin.operations.loaded.config is not None
        route = admin.operations.loaded.config.routes[0]
        assert route.respond is not None
        assert route.respond.body == config["routes"][0]["respond"]["body"]  # type: ignore[index]


def test_json_becomes_yaml_that_any_reader_takes() -> None:
    text = '{\t"a":\t["\\/\\ud83d\\ude00\\\\/\\\\ud83d", 1]}'
    assert yaml.load(_yaml_of(text), yaml.SafeLoader) == json.loads(text)  # the one without the C library


@pytest.mark.parametrize(
    ("body", "kind", "place", "message"),
    [
        (b'{\n"a": }', "application/json", (2, 6), "is not JSON: Expecting value"),
        (b"routes: []\n", "application/json", (1, 1), "is not JSON"),
        (b"[" * 100_000, "application/json", (0, 0), "is not JSON that can be read"),
        (b'{"a": ' + b"1" * 5000 + b"}", "application/json", (0, 0), "is not JSON that can be read"),
        (b"a: 1\nb: \xff\n", YAML, (2, 1), "is not UTF-8"),
        (b"a:\n  - b: [\n", YAML, (3, 1), ""),
    ],
)
def test_what_cannot_be_read(admin: RunningAdmin, body: bytes, kind: str, place: tuple[int, int], message: str) -> None:
    answer = admin.ask("POST", "/config/validate", body, content_type=kind)
    assert problem(answer) == (422, "invalid_configuration")
    (error,) = json.loads(answer.body)["errors"]
    assert (error["line"], error["column"]) == place
    assert message in error["message"]


def test_a_body_that_takes_long_to_read_holds_up_nobody(admin: RunningAdmin, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(text: str) -> str:
        begun.set()
        assert go.wait(TIMEOUT)
        return OTHER

    monkeypatch.setattr(configuring, "_yaml_of", slow)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(admin.ask, "POST", "/config/validate", {})
        try:
            assert begun.wait(TIMEOUT)
            assert admin.ask("GET", "/healthz").status == 200
        finally:
            go.set()
        assert answer.result(TIMEOUT).status == 200


def test_no_more_errors_are_told_than_anybody_reads(admin: RunningAdmin) -> None:
    answer = admin.ask("POST", "/config/validate", b"a: '***hidden***'\n" * 150, content_type=YAML)
    body = json.loads(answer.body)
    assert (len(body["errors"]), body["detail"]) == (101, "The configuration has 101 errors; nothing was changed")


def test_no_body_is_told(admin: RunningAdmin) -> None:
    answer = admin.ask("POST", "/config/validate")
    assert json.loads(answer.body)["errors"][0]["message"] == "is empty"


def test_hidden_secrets_cannot_become_real_ones(admin: RunningAdmin) -> None:
    shown = admin.ask("GET", "/config").body
    assert b"***hidden***" in shown
    answer = put(admin, json.dumps(json.loads(shown), indent=1), kind="application/json", if_match="*")
    assert problem(answer) == (422, "invalid_configuration")
    for error in json.loads(answer.body)["errors"]:
        assert error["line"] > 1
        assert "hidden secret" in error["message"]
    assert admin.operations.calls == []


def test_what_is_shown_can_be_put_back(tmp_path: Any) -> None:
    config = CONFIG.replace("headers: {x-api-key: a-key-of-eight}", "").replace("Authorization", "X-Tenant")
    config = config.replace("Bearer abcdefgh", "blue").replace("[GET, POST], }", "[GET, POST]}")
    config = config.replace("body: pong", 'body: "$$5 of $${HOME} at $$$$"')
    with run_admin(FakeOperations(tmp_path, config)) as admin:
        before = admin.operations.loaded.config
        answer = put(admin, admin.ask("GET", "/config").body.decode(), kind="application/json", if_match="*")
        assert answer.status == 200, answer.body
        assert admin.operations.loaded.config == before


def test_reload(admin: RunningAdmin) -> None:
    admin.operations.file.write_text(OTHER)
    answer = admin.ask("POST", "/reload")
    assert (answer.status, json.loads(answer.body)["changed"]) == (200, True)
    assert answer.get("etag") == admin.operations.version
    admin.operations.file.write_text(BAD)
    answer = admin.ask("POST", "/reload")
    assert problem(answer) == (422, "invalid_configuration")
    assert json.loads(answer.body)["errors"][1]["file"] == str(admin.operations.file)


def test_what_is_shown_loads_as_yaml_too(admin: RunningAdmin, tmp_path: Any) -> None:
    config = json.loads(admin.ask("GET", "/config").body)
    path = tmp_path / "shown.yaml"
    path.write_text(yaml.safe_dump(config))
    assert [str(error) for error in load(path, {}).errors] == []
