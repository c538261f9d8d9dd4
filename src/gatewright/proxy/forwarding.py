"""What a target is told: the request's head in its forwarded form (RFC 9110 section 7.6, RFC 7239).

The client's word about who forwarded it counts only when the peer is a trusted proxy; else such fields are dropped and
said anew. Hop-by-hop fields do not cross; framing is written from what the gateway knows, not copied.
"""

from gatewright.core.errors import Reason, RequestError
from gatewright.core.exchange import Exchange
from gatewright.core.headers import (
    CONTENT_LENGTH,
    EXPECT,
    FORWARDING,
    REQUEST_WRITTEN,
    TE,
    TRACE,
    UPGRADE,
    VIA,
    Headers,
)
from gatewright.core.peer import Peer
from gatewright.http1.serialize import PSEUDONYM

_BLOCKS_KEPT = 16
_MAX_PASSES = 8
_METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


def request_head(exchange: Exchange, headers: Headers, host: bytes, length: int | None) -> bytes:
    """Return the head of the request for a target.

    `headers` are the client's after plugins; `host` the value of Host; `length` of the body in bytes, None for chunked.
    """
    request = exchange.request
    peer = exchange.peer
    marks = headers.marks
    trace = exchange.trace
    fields = headers.wire
    if trace is not None and marks & TRACE:
        fields = headers.join(REQUEST_WRITTEN | TRACE)
    elif fields is None:
        fields = headers.join(REQUEST_WRITTEN)
    url = exchange.rewritten or (request.path if request.query is None else request.url)
    client_host = request.host
    if peer.trusted and marks & FORWARDING:
        forwarding = _chained(exchange, headers, client_host)
    else:
        forwarding = peer.blocks.get(client_host) or _block(peer, client_host)
    tail = f"X-Request-ID: {exchange.id}\r\n"
    if length is None:
        tail += "Transfer-Encoding: chunked\r\n"
    elif length or marks & CONTENT_LENGTH or request.chunked or request.method in _METHODS_WITH_BODY:
        tail += f"Content-Length: {length}\r\n"
    if trace is not None:
        tail += trace.fields()
    if marks & (TE | UPGRADE | EXPECT):
        tail += _negotiation(exchange, headers)
    line = f"{request.method} {url} HTTP/1.1\r\nHost: "
    return b"".join((line.encode("latin-1"), host, b"\r\n", fields, forwarding, tail.encode("latin-1"), b"\r\n"))


def check_loop(headers: Headers) -> None:
    """Raise RequestError(loop_detected) for a request that has come through gateways like this one too often."""
    passes = sum(field[1].lower().count(PSEUDONYM) for field in headers.fields if field[3] & VIA)
    if passes >= _MAX_PASSES:
        raise RequestError(Reason.LOOP_DETECTED, f"The request has passed through the gateway {passes} times")


def _negotiation(exchange: Exchange, headers: Headers) -> str:
    request = exchange.request
    lines, options = "", []
    if request.upgrade is not None:
        lines += f"Upgrade: {request.upgrade.decode('latin-1')}\r\n"
        options.append("Upgrade")
    if headers.marks & TE and "trailers" in headers.tokens("te"):
        lines += "TE: trailers\r\n"
        options.append("TE")
    if request.expects_continue:
        lines += "Expect: 100-continue\r\n"
    if options:
        lines += f"Connection: {', '.join(options)}\r\n"
    return lines


def _node(address: str) -> str:
    """Return an address as a node of Forwarded (RFC 7239 section 6)."""
    return f'"[{address}]"' if ":" in address else address or "unknown"


def _block(peer: Peer, host: bytes) -> bytes:
    """Return the forwarding fields for a client that speaks for itself; kept on the connection, by Host."""
    name = host.decode("latin-1")
    lines = [
        f"X-Forwarded-For: {peer.address}",
        f"X-Forwarded-Proto: {peer.scheme}",
        f"X-Forwarded-Port: {peer.local_port}",
        f"Forwarded: for={_node(peer.address)};proto={peer.scheme}",
        f"Via: 1.1 {PSEUDONYM.decode()}",
    ]
    if name:
        lines.insert(1, f"X-Forwarded-Host: {name}")
        lines[-2] += f';host="{name}"'
    block = "".join(line + "\r\n" for line in lines).encode("latin-1")
    if len(peer.blocks) >= _BLOCKS_KEPT:
        peer.blocks.clear()
    peer.blocks[host] = block
    return block


def _chained(exchange: Exchange, headers: Headers, host: bytes) -> bytes:
    """Return the forwarding fields behind a trusted proxy: its word is kept and ours added."""
    peer = exchange.peer
    before = [value for value in headers.get_all("x-forwarded-for") if value]
    known = headers.get_all("forwarded")
    name = host.decode("latin-1")
    seen_host = headers.get("x-forwarded-host") or name
    node = f"for={_node(peer.address)};proto={peer.scheme}" + (f';host="{name}"' if name else "")
    lines = [
        f"X-Forwarded-For: {', '.join([*before, peer.address])}",
        *([f"X-Forwarded-Host: {seen_host}"] if seen_host else []),
        f"X-Forwarded-Proto: {exchange.scheme}",
        f"X-Forwarded-Port: {headers.get('x-forwarded-port') or peer.local_port}",
        f"Forwarded: {', '.join([*known, node])}",
        f"Via: 1.1 {PSEUDONYM.decode()}",
    ]
    prefix = headers.get("x-forwarded-prefix")
    if prefix:
        lines.append(f"X-Forwarded-Prefix: {prefix}")
    return "".join(line + "\r\n" for line in lines).encode("latin-1")
