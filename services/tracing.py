"""Spans of a demo service, by OpenTelemetry's SDK: FastAPI makes them, once there is somewhere to send them to.

OTEL_EXPORTER_OTLP_ENDPOINT names a collector, or else JAEGER_HOST and JAEGER_PORT a Jaeger; without them there are no
spans. The trace that a request belongs to is the caller's. Called by common.py.
"""

import logging
import os

_log = logging.getLogger("uvicorn.error")
_OTLP_PORT = "4318"


def endpoint() -> str:
    """Return the collector's base URL, or "" where none is named."""
    host = os.environ.get("JAEGER_HOST")
    jaeger = f"http://{host}:{os.environ.get('JAEGER_PORT') or _OTLP_PORT}" if host else ""
    return os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or jaeger


def start_tracing(name: str) -> None:
    """Send the spans of service `name` to the collector, if one is named."""
    if not endpoint():
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        _log.warning("no spans: opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http are not installed")
        return
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint().rstrip('/')}/v1/traces")))
    trace.set_tracer_provider(provider)
