"""What caches are told to forget: the wishes that are taken, in the form in which caches keep their keys, and others."""

import json
from typing import Any

import pytest

from tests.kit.admin import RunningAdmin

PATH = "/cache/purge"


@pytest.mark.parametrize(
    ("wish", "kind", "value"),
    [
        ({"url": "HTTP://Shop.Test:80/A/./b//%7ec?B=%7e"}, "url", "http://shop.test:80/A/b/~c?B=%7e"),
        ({"url": "https://shop"}, "url", "https://shop/"),
        ({"url": "https://shop/?"}, "url", "https://shop/?"),
        ({"prefix": "HTTPS://Sho"}, "prefix", "https://sho"),
        ({"prefix": "http://Shop/A/./b?C"}, "prefix", "http://shop/A/./b?C"),
        ({"tag": "Red wine, \xe4"}, "tag", "Red wine, \xe4"),
        ({"all": True}, "all", ""),
    ],
)
def test_wishes(admin: RunningAdmin, wish: dict[str, Any], kind: str, value: str) -> None:
    answer = admin.ask("POST", PATH, wish)
    assert (answer.status, json.loads(answer.body)) == (202, {"kind": kind, "value": value, "workers": 2})
    assert admin.operations.calls == [("purge", kind, value)]


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"url": "http://a/", "tag": "b"},
        {"url": "http://a/", "all": True},
        {"url": ""},
        {"url": "/a"},
        {"url": "ftp://a/"},
        {"url": "http://a/b c"},
        {"url": "http://a/#b"},
        {"url": "http://a/%2F"},
        {"url": "http:///a"},
        {"prefix": ""},
        {"prefix": "/a"},
        {"tag": ""},
        {"tag": " a"},
        {"tag": "a\n"},
        {"tag": "\ud800"},
        {"tag": 1},
        {"all": False},
        {"all": 1},
        {"key": "a"},
        [],
    ],
)
def test_what_is_none(admin: RunningAdmin, wish: Any) -> None:
    answer = admin.ask("POST", PATH, wish)
    assert (answer.status, json.loads(answer.body)["reason"]) == (422, "invalid_request")
    assert admin.operations.calls == []


def test_a_url_that_nobody_can_ask_for_is_told_why(admin: RunningAdmin) -> None:
    answer = json.loads(admin.ask("POST", PATH, {"url": "http://a/%2F"}).body)
    assert answer["detail"].startswith("url is none that a client can ask for: ")


def test_when_no_worker_serves_nothing_is_promised(admin: RunningAdmin) -> None:
    admin.operations.reasons = ["no worker serves"]
    answer = admin.ask("POST", PATH, {"all": True})
    assert (answer.status, json.loads(answer.body)["reasons"]) == (503, ["no worker serves"])
