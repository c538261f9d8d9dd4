"""What `benchmarks.micro` times: one small function a case, in the order of a request's way.

Owns typical inputs: the head a browser-like client sends, the head of a small JSON answer. It uses only
what the packages offer to each other. To add a case, write a function that returns the operation, and name
it in CASES.
"""

import asyncio
import itertools
from typing import cast

from benchmarks.micro import Case, Operation
from gatewright.core.clock import SystemClock
from gatewright.core.exchange import Downstream, Exchange
from gatewright.core.headers import Headers
from gatewright.core.limits import Limits
from gatewright.core.messages import Request, Response
from gatewright.core.peer import Peer
from gatewright.http1.request_codec import RequestCodec
from gatewright.http1.response_codec import ResponseCodec
from gatewright.http1.serialize import response_head
from gatewright.net.timers import Timers
from gatewright.net.upstream import TargetConnection
from gatewright.plugins.base import Plugin, PluginConfig
from gatewright.plugins.chain import compile_chain
from gatewright.routing.pattern import parse
from gatewright.routing.table import Rule, Table
from gatewright.upstream.pool import Pool, PoolLimits

_BARE_REQUEST = b"GET /bench HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"
_REQUEST_LINES = (
    b"Host: api.example.com",
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    b"Accept: application/json",
    b"Accept-Language: en-US,en;q=0.5",
    b"Accept-Encoding: gzip, deflate, br, zstd",
    b"Authorization: Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.not-a-signature",
    b"Cookie: session=3f0c2a9e5b7d4c61; theme=dark",
    b"Connection: keep-alive",
)
_RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: uvicorn\r\nDate: Sun, 22 Nov 2026 10:00:00 GMT\r\n"
    b'Content-Type: application/json\r\nContent-Length: 27\r\n\r\n{"message":"Hello, World!"}'
)


def _request(*more: bytes) -> bytes:
    return b"\r\n".join((b"GET /service-a/items/42?full=1 HTTP/1.1", *_REQUEST_LINES, *more, b"", b""))


def codec_bare_request() -> Operation:
    """The head that the benchmark against the peers sends."""
    codec = RequestCodec(Limits())

    def operation() -> None:
        codec.receive(_BARE_REQUEST)
        codec.next_request()

    return operation


def codec_request() -> Operation:
    """Eight fields that were all seen before."""
    codec = RequestCodec(Limits())
    data = _request()

    def operation() -> None:
        codec.receive(data)
        codec.next_request()

    return operation


def codec_request_new_field() -> Operation:
    """The same and a ninth field whose value is another one each time, as a trace's is."""
    codec = RequestCodec(Limits())
    heads = itertools.cycle([_request(b"X-Trace: %032x" % number) for number in range(20_000)])

    def operation() -> None:
        codec.receive(next(heads))
        codec.next_request()

    return operation


def codec_response() -> Operation:
    """The head and the body of a small JSON answer."""
    codec = ResponseCodec()

    def operation() -> None:
        codec.receive(_RESPONSE)
        codec.next_response()

    return operation


def codec_response_head() -> Operation:
    """The head of that answer, written anew for the client."""
    codec = ResponseCodec()
    codec.receive(_RESPONSE)
    response = codec.next_response()
    assert response is not None
    return lambda: response_head(response, "7d0f4c2a9b6e4f1d8a3c5e7f90b1d2c3", 27, False, b"")


def _routed(path: str) -> Request:
    return Request("GET", path, None, 1, b"127.0.0.1:8080", Headers())


def router_one_rest() -> Operation:
    """The only route of the benchmark against the peers."""
    table = Table([Rule("bench", parse("/{rest...}"), 1)])
    request = _routed("/bench")
    return lambda: table.match(request)


def _many_routes() -> Table[int]:
    kinds = (
        "/service-{}",
        "/service-{}/items/{{id}}",
        "/service-{}/files/{{rest...}}",
        "/v1/service-{}/health",
    )
    return Table([Rule(f"r{n}", parse(kinds[n % 4].format(n // 4)), n) for n in range(10_000)])


def router_exact_of_10000() -> Operation:
    """An exact path among 10,000 routes."""
    table = _many_routes()
    request = _routed("/service-1234")
    return lambda: table.match(request)


def router_parameter_of_10000() -> Operation:
    """A path with a parameter among 10,000 routes."""
    table = _many_routes()
    request = _routed("/service-1234/items/42")
    return lambda: table.match(request)


class _Hooks(Plugin[PluginConfig], name="bench_hooks"):
    """Does nothing, in two phases: what is timed is the price of being asked."""

    def on_request(self, exchange: Exchange) -> Response | None:
        return None

    def on_response(self, exchange: Exchange, response: Response) -> None:
        return None


def chain_six_hooks() -> Operation:
    """Six plugins with an empty `on_request`, called as the proxy calls them."""
    hooks = compile_chain([_Hooks(PluginConfig()) for _ in range(6)]).request
    # The hooks touch nothing of the connection that the exchange came on.
    exchange = Exchange(_routed("/bench"), Peer("127.0.0.1", 1, 8080), cast(Downstream, None), 0.0)

    def operation() -> None:
        for hook in hooks:
            if hook(exchange) is not None:
                return

    return operation


def pool_take_and_release() -> Operation:
    """A connection is taken and given back, among 64 that lie idle."""
    clock = SystemClock()
    timers = Timers(clock)

    async def never_opened(pool: Pool) -> TargetConnection:
        raise AssertionError("the pool has idle connections")

    pool = Pool(never_opened, clock, timers, PoolLimits())

    async def fill() -> None:  # filing the first deadline needs a running loop, moving it does not
        for _ in range(64):
            pool.released(TargetConnection(pool, clock, timers), clock.now())

    asyncio.run(fill())

    def operation() -> None:
        connection = pool.take(clock.now())
        assert connection is not None
        pool.released(connection, clock.now())

    return operation


def exchange_made() -> Operation:
    """The record of an exchange, with its new request ID."""
    request, peer = _routed("/bench"), Peer("127.0.0.1", 1, 8080)
    return lambda: Exchange(request, peer, cast(Downstream, None), 0.0)


CASES: dict[str, Case] = {
    "codec: bare request head": codec_bare_request,
    "codec: request head, 8 known fields": codec_request,
    "codec: request head, 8 known and 1 new field": codec_request_new_field,
    "codec: small answer": codec_response,
    "codec: head of an answer for the client": codec_response_head,
    "exchange: made, with its ID": exchange_made,
    "router: the only route, /{rest...}": router_one_rest,
    "router: exact path of 10,000 routes": router_exact_of_10000,
    "router: parameter of 10,000 routes": router_parameter_of_10000,
    "chain: six synchronous hooks": chain_six_hooks,
    "pool: take and release": pool_take_and_release,
}
