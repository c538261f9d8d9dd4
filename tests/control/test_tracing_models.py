"""The section `tracing`: what it takes, what it refuses and with which words."""

import pytest
from pydantic import ValidationError

from gatewright.control.tracing_models import TracingConfig


@pytest.mark.parametrize(
    ("value", "endpoint"),
    [
        ("", ""),
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318"),
        ("https://collector.example.com/otlp", "https://collector.example.com/otlp"),
        ("http://[::1]:4318", "http://[::1]:4318"),
        ("http://:4318", ""),
        (["", "http://:4318"], ""),
        (["", "http://jaeger:4318"], "http://jaeger:4318"),
        (["http://a:1", "http://b:1"], "http://a:1"),
        ([], ""),
    ],
)
def test_endpoints(value, endpoint):
    assert TracingConfig(endpoint=value).endpoint == endpoint


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("127.0.0.1:4318", "http or https URL"),
        ("localhost", "http or https URL"),
        ("grpc://collector:4317", "http or https URL"),
        ("http://collector:0", "http or https URL"),
        ("http://collector:99999", "http or https URL"),
        ("http://collector:abc", "http or https URL"),
        ("http://col lector", "http or https URL"),
        ("http://collector\r\nX: y", "http or https URL"),
        ("http://me:secret@collector", "tracing.headers"),
        ("http://collector/?key=secret", "without query"),
        (["", "nonsense"], "http or https URL"),
        ([1], "list of such"),
        (None, "list of such"),
        ({}, "list of such"),
    ],
)
def test_what_is_no_endpoint(value, words):
    with pytest.raises(ValidationError) as caught:
        TracingConfig(endpoint=value)
    (error,) = caught.value.errors()
    assert words in error["msg"]
    assert "secret" not in error["msg"]


@pytest.mark.parametrize(
    "section",
    [
        {"sample": -0.1},
        {"sample": 1.1},
        {"sample": float("nan")},
        {"sample": "all"},
        {"propagate": []},
        {"propagate": ["w3c"]},
        {"parents": "some"},
        {"service_name": ""},
        {"headers": {"a b": "c"}},
        {"headers": {"a": "b\r\nc: d"}},
        {"endpoints": "http://a"},
    ],
)
def test_what_is_refused(section):
    with pytest.raises(ValidationError):
        TracingConfig(**section)


def test_headers_are_not_shown():
    assert "abc" not in repr(TracingConfig(headers={"Authorization": "Bearer abc"}))
