"""What the plugins mode compares: one gateway for each feature, with exactly that feature on.

Owns the configurations and what each is compared with. They start nothing. Called by plugins. In these templates also
@COLLECTOR@ (a port of 127.0.0.1 that takes spans at /NAME/v1/traces) and @NAME@ (the case's own name) are filled in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from benchmarks import bearer, peers

BARE = "bare"
_ONE: tuple[Mapping[str, str], ...] = (bearer.field(bearer.token()),)
_JWT = f'jwt: {{algorithms: [HS256], secret: "{bearer.SECRET}"'
_LOG = '{format: json, destination: "@DIR@/access.log"}'
_OWN = """\
from gatewright import Exchange, Plugin, PluginConfig, Response


class Own(Plugin[PluginConfig], name="own"):
    def on_request(self, exchange: Exchange) -> Response | None:
        exchange.state["user agent"] = exchange.request.headers.get("User-Agent")
        return None
"""

_CONFIG = """\
listeners:
  - bind: 127.0.0.1:@PORT@
access_log: @LOG@
tracing: @TRACING@
admin: {bind: "127.0.0.1:@ADMIN@"}
workers: 1
plugins:@PLUGINS@
services:
  upstream:
    targets: ["http://127.0.0.1:@UPSTREAM@"]
routes:
  - name: bench
    match: {path: "/{rest...}"}
    service: upstream
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A gateway with one thing on, and the case that it is compared with."""

    peer: peers.Peer
    beside: str = BARE


def _peer(
    does: str,
    *plugins: str,
    log: str = "false",
    sample: float | None = None,
    requests: tuple[Mapping[str, str], ...] = _ONE,
    files: Mapping[str, str] | None = None,
) -> peers.Peer:
    endpoint = "" if sample is None else "http://127.0.0.1:@COLLECTOR@/@NAME@"
    places = {
        "LOG": log,
        "TRACING": f'{{endpoint: "{endpoint}", sample: {1.0 if sample is None else sample}}}',
        "PLUGINS": "".join(f"\n  - {plugin}" for plugin in plugins) or " []",
    }
    config = peers.filled(_CONFIG, places)
    return replace(peers.GATEWRIGHT, does=does, config=config, requests=requests, files=files or {}, env={})


_MANY = tuple(bearer.field(bearer.token(f"client-{number}")) for number in range(1000))
_EDIT = "{set: {gateway: bench}, remove: [ok]}"

CASES = {
    BARE: Case(_peer("no plugin, access log and tracing off; metrics and request ID are always on")),
    "jwt": Case(_peer("HS256, always the same token, which is remembered", f"{_JWT}}}")),
    "jwt-anew": Case(_peer("HS256, remember: 0, so that each request's token is verified", f"{_JWT}, remember: 0}}")),
    "tokens": Case(_peer("no plugin, requests with 1,000 different tokens in turn", requests=_MANY)),
    "jwt-tokens": Case(
        _peer("HS256, the same 1,000 tokens in turn, remembered", f"{_JWT}}}", requests=_MANY), "tokens"
    ),
    "rate_limit": Case(_peer("one limit, in memory, by client", 'rate_limit: {limit: "1000000/second"}')),
    "rate_limit-2": Case(
        _peer("two limits", 'rate_limit: {limits: [{limit: "1000000/second"}, {limit: "900000/second", by: route}]}')
    ),
    "access_log": Case(_peer("JSON to a file", log=_LOG)),
    "logging": Case(_peer("header fields of request and answer in the access log", "logging", log=_LOG), "access_log"),
    "tracing-1%": Case(_peer("to a live collector, sample: 0.01", sample=0.01)),
    "tracing": Case(_peer("to a live collector, sample: 1.0: two spans a request", sample=1.0)),
    "headers": Case(
        _peer(
            "a field set in the request, one set in the answer and one removed",
            'headers: {request: {set: {X-Client: "{client_ip}"}}, response: {set: {X-One: two}, remove: [Server]}}',
        )
    ),
    "transform": Case(_peer("a member set and one removed in the answer's JSON", f"transform: {{response: {_EDIT}}}")),
    "cache": Case(_peer("every request a hit; nothing goes to the target", "cache: {ttl: 1h}", requests=({},))),
    "own": Case(_peer("a plugin of one's own with on_request, def", "use: ./own.py:Own", files={"own.py": _OWN})),
}
PEERS = {name: case.peer for name, case in CASES.items()}
