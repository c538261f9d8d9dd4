"""What an exchange knows of its client: who it is, and what of that may be believed."""

import ipaddress
import json

import pytest

from gatewright.core.exchange import Exchange
from gatewright.core.headers import Headers
from gatewright.core.messages import ReceivedResponse, Request, Response
from gatewright.core.peer import Peer

TRUSTED = (ipaddress.ip_network("10.0.0.0/8"),)


def exchange(fields=(), address="10.0.0.1", trusted=TRUSTED):
    request = Request("GET", "/a", "b=1", 1, b"shop.test", Headers.of(fields))
    return Exchange(request, Peer(address, 1234, 80, "http", trusted), None, 0.0)


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (["1.2.3.4"], "1.2.3.4"),
        (["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
        (["6.6.6.6", "1.2.3.4, 10.0.0.9"], "1.2.3.4"),
        (["10.0.0.8, 10.0.0.9"], "10.0.0.8"),
        (["nonsense"], "10.0.0.1"),
        (["1.2.3.4, nonsense"], "10.0.0.1"),
        (["[2001:db8::1]:55"], "2001:db8::1"),
        (["1.2.3.4:55"], "1.2.3.4"),
        ([], "10.0.0.1"),
    ],
)
def test_the_client_is_the_rightmost_that_no_trusted_proxy_stands_for(forwarded, client):
    fields = [("X-Forwarded-For", value) for value in forwarded]
    assert exchange(fields).client_ip == client
    assert exchange(fields, "9.9.9.9").client_ip == "9.9.9.9"
    assert exchange(fields, trusted=()).client_ip == "10.0.0.1"


def test_the_scheme_of_a_trusted_proxy_is_believed():
    assert exchange([("X-Forwarded-Proto", "HTTPS")]).scheme == "https"
    assert exchange([("X-Forwarded-Proto", "gopher")]).scheme == "http"
    assert exchange([("X-Forwarded-Proto", "https")], "9.9.9.9").scheme == "http"


@pytest.mark.parametrize("value", ["", "a b", "x" * 129, 'a"b', "é"])
def test_an_id_from_a_trusted_proxy_is_kept_if_it_is_one(value):
    assert exchange([("X-Request-ID", "abc-1")]).id == "abc-1"
    assert exchange([("X-Request-ID", "abc-1")], "9.9.9.9").id != "abc-1"
    made = exchange([("X-Request-ID", value)]).id
    assert made != value
    assert len(made) == 32


def test_ids_differ():
    assert len({exchange().id for _ in range(100)}) == 100


def test_state_is_made_when_it_is_first_used():
    subject = exchange()
    assert subject.kept is None
    subject.state["a"] = 1
    assert subject.state == {"a": 1}


def test_reject_notes_its_reason():
    subject = exchange()
    response = subject.reject(429, "rate_limited", "Too many", {"retry-after": "3"})
    assert (subject.reason, response.status, response.headers.get("retry-after")) == ("rate_limited", 429, "3")
    assert json.loads(response.body)["title"] == "Too many requests"


def test_a_body_that_was_not_asked_for_cannot_be_read_or_replaced():
    message = ReceivedResponse(200, b"OK", 1, Headers(), True, None, False)
    with pytest.raises(RuntimeError, match='declare body = "buffer"'):
        _ = message.body
    with pytest.raises(RuntimeError, match='declare body = "buffer"'):
        message.body = b"x"
    assert Response(200, body="é").body == "é".encode()
