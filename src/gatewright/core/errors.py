"""What can go wrong, why, and which status that gets: the one table of reasons.

An error says what happened (its reason), whose fault it was (its class) and whether another try may help (`retry`).
It knows nothing about HTTP but this: `status_for` maps every reason to its status, and None means that nobody is left
to answer. Plugins may answer with reasons of their own; those carry their status themselves.
"""

from enum import Enum, StrEnum
from typing import NamedTuple


class Reason(StrEnum):
    """Why the gateway answered a request itself, in bodies, logs, metrics and explanations."""

    MALFORMED_REQUEST = "malformed_request"
    BAD_FRAMING = "bad_framing"
    INVALID_HOST = "invalid_host"
    INVALID_PATH = "invalid_path"
    UNSUPPORTED_VERSION = "unsupported_version"
    UNSUPPORTED_METHOD = "unsupported_method"
    EXPECTATION_FAILED = "expectation_failed"
    REQUEST_LINE_TOO_LONG = "request_line_too_long"
    HEADERS_TOO_LARGE = "headers_too_large"
    TOO_MANY_HEADERS = "too_many_headers"
    BODY_TOO_LARGE = "body_too_large"
    HEADER_TIMEOUT = "header_timeout"
    BODY_TIMEOUT = "body_timeout"
    CLIENT_GONE = "client_gone"
    LOOP_DETECTED = "loop_detected"
    NO_ROUTE = "no_route"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    RATE_LIMITED = "rate_limited"
    RATE_LIMIT_UNAVAILABLE = "rate_limit_unavailable"
    NO_HEALTHY_TARGET = "no_healthy_target"
    CIRCUIT_OPEN = "circuit_open"
    OVERLOADED = "overloaded"
    POOL_EXHAUSTED = "pool_exhausted"
    SOCKETS_EXHAUSTED = "sockets_exhausted"
    DRAINING = "draining"
    CONNECT_FAILED = "connect_failed"
    CONNECT_TIMEOUT = "connect_timeout"
    DNS_FAILED = "dns_failed"
    TLS_FAILED = "tls_failed"
    UPSTREAM_RESET = "upstream_reset"
    UPSTREAM_TRUNCATED = "upstream_truncated"
    UPSTREAM_MALFORMED = "upstream_malformed"
    RESPONSE_TOO_LARGE = "response_too_large"
    RESPONSE_TIMEOUT = "response_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    TOTAL_TIMEOUT = "total_timeout"
    APP_FAILED = "app_failed"
    JWT_MISSING = "jwt_missing"
    JWT_SCHEME = "jwt_scheme"
    JWT_EXPIRED = "jwt_expired"
    JWT_INVALID = "jwt_invalid"
    JWT_KEYS_UNAVAILABLE = "jwt_keys_unavailable"
    PLUGIN_ERROR = "plugin_error"
    INTERNAL_ERROR = "internal_error"


class ReasonInfo(NamedTuple):
    """What a reason means on the wire."""

    status: int | None  # None: nobody is there to be answered
    title: str
    proxy_status: str | None = None  # RFC 9209 section 2.3, the error type


_REQUEST_ERROR = "http_request_error"

REASONS: dict[str, ReasonInfo] = {
    Reason.MALFORMED_REQUEST: ReasonInfo(400, "Malformed request", _REQUEST_ERROR),
    Reason.BAD_FRAMING: ReasonInfo(400, "Ambiguous or malformed message framing", _REQUEST_ERROR),
    Reason.INVALID_HOST: ReasonInfo(400, "Missing or invalid Host", _REQUEST_ERROR),
    Reason.INVALID_PATH: ReasonInfo(400, "Invalid request path", _REQUEST_ERROR),
    Reason.UNSUPPORTED_VERSION: ReasonInfo(505, "HTTP version not supported", _REQUEST_ERROR),
    Reason.UNSUPPORTED_METHOD: ReasonInfo(501, "Method not implemented", _REQUEST_ERROR),
    Reason.EXPECTATION_FAILED: ReasonInfo(417, "Expectation not known", _REQUEST_ERROR),
    Reason.REQUEST_LINE_TOO_LONG: ReasonInfo(414, "Request line too long", _REQUEST_ERROR),
    Reason.HEADERS_TOO_LARGE: ReasonInfo(431, "Header fields too large", _REQUEST_ERROR),
    Reason.TOO_MANY_HEADERS: ReasonInfo(431, "Too many header fields", _REQUEST_ERROR),
    Reason.BODY_TOO_LARGE: ReasonInfo(413, "Request body too large", _REQUEST_ERROR),
    Reason.HEADER_TIMEOUT: ReasonInfo(408, "Request head took too long", _REQUEST_ERROR),
    Reason.BODY_TIMEOUT: ReasonInfo(408, "Request body took too long", _REQUEST_ERROR),
    Reason.CLIENT_GONE: ReasonInfo(None, "The client went away"),
    Reason.LOOP_DETECTED: ReasonInfo(508, "Proxy loop detected", "proxy_loop_detected"),
    Reason.NO_ROUTE: ReasonInfo(404, "No route matches", "destination_not_found"),
    Reason.METHOD_NOT_ALLOWED: ReasonInfo(405, "Method not allowed", "http_request_denied"),
    Reason.RATE_LIMITED: ReasonInfo(429, "Too many requests", "http_request_denied"),
    Reason.RATE_LIMIT_UNAVAILABLE: ReasonInfo(503, "Limits cannot be checked", "proxy_internal_error"),
    Reason.NO_HEALTHY_TARGET: ReasonInfo(503, "No healthy target", "destination_unavailable"),
    Reason.CIRCUIT_OPEN: ReasonInfo(503, "Circuit open", "destination_unavailable"),
    Reason.OVERLOADED: ReasonInfo(503, "Too many requests in flight", "connection_limit_reached"),
    Reason.POOL_EXHAUSTED: ReasonInfo(503, "No free connection to the target", "connection_limit_reached"),
    Reason.SOCKETS_EXHAUSTED: ReasonInfo(503, "The gateway has no free socket", "proxy_internal_error"),
    Reason.DRAINING: ReasonInfo(503, "The gateway is shutting down", "proxy_internal_response"),
    Reason.CONNECT_FAILED: ReasonInfo(502, "Target not reachable", "connection_refused"),
    Reason.CONNECT_TIMEOUT: ReasonInfo(504, "Connecting to the target took too long", "connection_timeout"),
    Reason.DNS_FAILED: ReasonInfo(502, "Target name not resolved", "dns_error"),
    Reason.TLS_FAILED: ReasonInfo(502, "TLS to the target failed", "tls_protocol_error"),
    Reason.UPSTREAM_RESET: ReasonInfo(502, "Target closed the connection", "connection_terminated"),
    Reason.UPSTREAM_TRUNCATED: ReasonInfo(502, "Target broke off its answer", "http_response_incomplete"),
    Reason.UPSTREAM_MALFORMED: ReasonInfo(502, "Target's answer is malformed", "http_protocol_error"),
    Reason.RESPONSE_TOO_LARGE: ReasonInfo(502, "Target's answer is too large for a plugin", "http_response_body_size"),
    Reason.RESPONSE_TIMEOUT: ReasonInfo(504, "Target took too long to answer", "http_response_timeout"),
    Reason.IDLE_TIMEOUT: ReasonInfo(504, "Target stalled in its answer", "http_response_timeout"),
    Reason.TOTAL_TIMEOUT: ReasonInfo(504, "Time for all tries is used up", "http_response_timeout"),
    Reason.APP_FAILED: ReasonInfo(502, "In-process application failed", "proxy_internal_error"),
    Reason.JWT_MISSING: ReasonInfo(401, "Token missing", "http_request_denied"),
    Reason.JWT_SCHEME: ReasonInfo(401, "Not a bearer token", "http_request_denied"),
    Reason.JWT_EXPIRED: ReasonInfo(401, "Token expired", "http_request_denied"),
    Reason.JWT_INVALID: ReasonInfo(401, "Token not accepted", "http_request_denied"),
    Reason.JWT_KEYS_UNAVAILABLE: ReasonInfo(503, "Keys for tokens not known", "proxy_internal_response"),
    Reason.PLUGIN_ERROR: ReasonInfo(500, "A plugin failed", "proxy_internal_error"),
    Reason.INTERNAL_ERROR: ReasonInfo(500, "The gateway failed", "proxy_internal_error"),
}


class Retry(Enum):
    """Whether another try may help, and may be made."""

    NEVER = "never"
    SAFE = "safe"  # the target has seen nothing of the request: any method may be tried again
    IDEMPOTENT = "idempotent"  # the target may have acted on it: idempotent methods only


class GatewayError(Exception):
    """Something that ends an exchange or an attempt.

    `reason` is one of `Reason`; `detail` is a sentence for the client, without secrets or addresses of targets;
    `cause` is for the log only.
    """

    retry = Retry.NEVER

    def __init__(self, reason: Reason, detail: str, cause: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
        self.cause = cause


class RequestError(GatewayError):
    """The client's request cannot be served as it is."""


class ResponseError(GatewayError):
    """A target's answer breaks HTTP, or breaks off."""

    retry = Retry.NEVER


class UpstreamError(GatewayError):
    """A target could not be asked or did not answer."""

    def __init__(self, reason: Reason, detail: str, retry: Retry, cause: str = "") -> None:
        super().__init__(reason, detail, cause)
        self.retry = retry
        # The connection had served before and was closed before a byte of an answer came: most likely the target had
        # closed it while idle and never saw the request.
        self.reused = False


class ServiceUnavailable(GatewayError):
    """The gateway refuses to ask a service now; `retry_after` is in whole seconds, at least 1."""

    def __init__(self, reason: Reason, detail: str, retry_after: int) -> None:
        super().__init__(reason, detail)
        self.retry_after = max(1, retry_after)


class MethodNotAllowed(RequestError):
    """The path is known, the method is not; `allowed` are the methods that are."""

    def __init__(self, allowed: list[str]) -> None:
        super().__init__(Reason.METHOD_NOT_ALLOWED, "This path takes " + ", ".join(allowed))
        self.allowed = allowed


def status_for(reason: Reason) -> int | None:
    """Return the HTTP status that `reason` gets, or None when nobody is left to answer."""
    return REASONS[reason].status
