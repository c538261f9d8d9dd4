"""The one vocabulary of reasons: complete, and true to the contract on statuses."""

import json
import re

import pytest

from gatewright.core.errors import REASONS, MethodNotAllowed, Reason, ServiceUnavailable, status_for
from gatewright.core.exchange import problem


def test_every_reason_has_a_status_and_a_title():
    assert set(REASONS) == set(Reason)
    for reason in Reason:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", reason)
        assert REASONS[reason].title
        assert (status_for(reason) is None) is (reason is Reason.CLIENT_GONE)


@pytest.mark.parametrize(
    ("status", "reasons"),
    [
        (400, ["malformed_request", "bad_framing", "invalid_host", "invalid_path"]),
        (404, ["no_route"]),
        (405, ["method_not_allowed"]),
        (408, ["header_timeout", "body_timeout"]),
        (413, ["body_too_large"]),
        (414, ["request_line_too_long"]),
        (431, ["headers_too_large", "too_many_headers"]),
        (
            502,
            [
                "connect_failed",
                "dns_failed",
                "tls_failed",
                "upstream_reset",
                "upstream_truncated",
                "upstream_malformed",
            ],
        ),
        (503, ["no_healthy_target", "circuit_open", "overloaded", "pool_exhausted", "sockets_exhausted", "draining"]),
        (504, ["connect_timeout", "response_timeout", "idle_timeout", "total_timeout"]),
    ],
)
def test_the_statuses_of_the_contract(status, reasons):
    assert {status_for(Reason(reason)) for reason in reasons} == {status}


def test_a_timeout_is_never_a_502_and_nothing_else_is_a_504():
    assert {reason for reason in Reason if status_for(reason) == 504} == {
        reason for reason in Reason if reason.endswith("_timeout") and reason not in ("header_timeout", "body_timeout")
    }


def test_retry_after_is_at_least_a_second():
    assert ServiceUnavailable(Reason.OVERLOADED, "x", 0).retry_after == 1


def test_method_not_allowed_names_what_is():
    assert MethodNotAllowed(["GET", "PUT"]).detail == "This path takes GET, PUT"


def test_a_problem_says_all_of_it():
    response = problem(503, Reason.CIRCUIT_OPEN, "Not now", "id-1", {"retry-after": "7"})
    assert json.loads(response.content) == {
        "type": "urn:gatewright:reason:circuit_open", "title": "Circuit open", "status": 503, "detail": "Not now",
        "reason": "circuit_open", "request_id": "id-1",
    }  # fmt: skip
    assert response.headers.get("content-type") == "application/problem+json"
    assert response.headers.get("proxy-status") == 'gatewright; error=destination_unavailable; details="circuit_open"'
    assert response.headers.get("retry-after") == "7"
