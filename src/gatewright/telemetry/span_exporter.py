"""Sending spans to a collector: OTLP over HTTP, in batches, by a thread of its own.

The event loop leaves encoded spans in a bounded queue and never waits. What finds the queue full, or what the collector
does not take, is dropped and counted: a dead collector costs a counter. Made by the composition root.

Spans are encoded on the event loop, at the end of their exchange: a thread would take the interpreter from the loop for
as long, and each change of hands between the two costs more than the spans of an exchange.
"""

import http.client
import logging
import random
import ssl
import threading
from collections import deque
from collections.abc import Mapping
from io import BytesIO
from urllib.parse import urlsplit

from gatewright.core.clock import Clock
from gatewright.core.exchange import Exchange
from gatewright.telemetry.otlp import Encoder
from gatewright.telemetry.tracing import RecordedTrace

_log = logging.getLogger("gatewright.tracing")

QUEUE = 4096  # exchanges that wait; one has 0.5 to 5 KB
BATCH = 512  # exchanges that are sent at once
FLUSH_SECONDS = 1.0
_SPARE = 2  # batches whose memory is kept; one has 0.3 to 2 MB
_TIMEOUT = 10.0  # seconds for one request
_TRIES = 5  # of a batch
FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0  # seconds between them
_AGAIN = frozenset({429, 502, 503, 504})  # OTLP's specification: these, and no answer, may be tried again
_PATH = "/v1/traces"
_NANO = 1_000_000_000


class _Refused(Exception):
    """The collector did not take a batch. `wait`: seconds after which it may be tried again; None: it may not."""

    def __init__(self, text: str, wait: float | None) -> None:
        super().__init__(text)
        self.wait = wait


class _Batch:
    """Spans of several exchanges, encoded one behind the other.

    In memory that is used again and again: what is allocated anew for each batch comes from the kernel, page by page,
    and that costs more than the encoding.
    """

    __slots__ = ("data", "exchanges", "spans")

    def __init__(self) -> None:
        self.data = BytesIO()
        self.exchanges = 0
        self.spans = 0

    def empty(self) -> None:
        """Make room for others."""
        self.data.seek(0)
        self.exchanges = self.spans = 0


class SpanExporter:
    """Sends the spans of finished exchanges to one endpoint."""

    def __init__(
        self,
        endpoint: str,
        headers: Mapping[str, str],
        encoder: Encoder,
        clock: Clock,
        flush: float,
        first_wait: float = FIRST_WAIT,
    ) -> None:
        """`endpoint` is the collector's base URL; `headers` are sent with each request. Spans wait for `flush` seconds
        for others; `first_wait` seconds come before a second try.
        """
        parts = urlsplit(endpoint)
        self._tls = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._tls else 80)
        path = parts.path.rstrip("/")
        self._path = path if path.endswith(_PATH) else path + _PATH
        self._place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{self._path}"
        self._headers = {"Content-Type": "application/x-protobuf", "User-Agent": "gatewright", **headers}
        self._encoder = encoder
        self._clock = clock
        self._flush = flush
        self._first_wait = first_wait
        self._lock = threading.Lock()  # for the three below
        self._filling = _Batch()
        self._waiting: deque[_Batch] = deque()  # full ones
        self._spare: list[_Batch] = []  # empty ones
        self._offset = 0  # nanoseconds from the gateway's clock to the epoch
        self._full = 0  # spans that never came into the queue; counted on the event loop
        self._lost = 0  # spans that the collector did not take; counted in the thread
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._connection: http.client.HTTPConnection | None = None
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="gatewright-spans", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Number of spans that no collector will see."""
        return self._full + self._lost

    def put(self, exchange: Exchange, trace: RecordedTrace, ended: float) -> None:
        """Take an exchange that has ended, and never wait. Called on the event loop."""
        with self._lock:
            batch = self._filling
            count = 1 + len(trace.attempts)
            if batch.exchanges + BATCH * len(self._waiting) >= QUEUE or self._closing.is_set():
                self._full += count
                return
            if not batch.exchanges:
                self._offset = round((self._clock.wall() - self._clock.now()) * _NANO)
            try:
                spans = self._encoder.spans(exchange, trace, ended, self._offset)
            except Exception:
                self._full += count
                _log.exception("the spans of an exchange could not be encoded")
                return
            batch.data.write(spans)
            batch.spans += count
            batch.exchanges += 1
            if batch.exchanges == BATCH:
                self._waiting.append(batch)
                self._filling = self._spare.pop() if self._spare else _Batch()
                self._wake.set()

    def set_routes(self, routes: Mapping[str, str]) -> None:
        """Take the paths of routes by name, for exchanges that are encoded from now on."""
        self._encoder.set_routes(routes)

    def close(self, timeout: float = 2.0) -> None:
        """Send what waits, once, and end; blocks for `timeout` seconds at most."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout)
        if self._thread.is_alive():
            _log.warning("the last spans could not be sent to %s in time", self._place)

    # In the thread

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(self._flush)
            self._wake.clear()
            self._send_all()
        self._send_all()
        self._disconnect()

    def _send_all(self) -> None:
        """Send the full batches, then what there is of another: once, or under load each would have but a few spans."""
        while self._waiting:
            self._send(self._waiting.popleft())
        with self._lock:
            batch = self._filling
            if not batch.exchanges:
                return
            self._filling = self._spare.pop() if self._spare else _Batch()
        self._send(batch)

    def _send(self, batch: _Batch) -> None:
        """Send a batch; nothing that goes wrong ends the thread."""
        size = batch.data.tell()
        with batch.data.getbuffer() as view:
            try:
                self._deliver((self._encoder.head(size), view[:size]))
            except _Refused as error:
                self._lost += batch.spans
                self._complain(str(error))
            except Exception:  # a defect: the gateway goes on without these
                self._lost += batch.spans
                _log.exception("spans could not be sent")
        batch.empty()
        with self._lock:
            if len(self._spare) < _SPARE:
                self._spare.append(batch)

    def _deliver(self, body: tuple[bytes, memoryview]) -> None:
        """Send a request, again after a while where that may help. Raises _Refused."""
        wait = self._first_wait
        for tries_left in reversed(range(_TRIES)):
            try:
                self._post(body)
            except _Refused as error:
                if error.wait is None or not tries_left or self._closing.is_set():
                    raise
                self._complain(str(error))
                pause = min(_LONGEST_WAIT, max(error.wait, wait * random.uniform(0.5, 1.0)))
                self._closing.wait(pause)
                wait *= 2
            else:
                if self._failing:
                    self._failing = False
                    _log.info("spans reach %s again", self._place)
                return

    def _post(self, body: tuple[bytes, memoryview]) -> None:
        """Send a request on the connection there is, or else on a new one. Raises _Refused."""
        reused = self._connection is not None
        try:
            connection = self._connection = self._connection or self._connect()
            headers = {**self._headers, "Content-Length": str(sum(map(len, body)))}
            connection.request("POST", self._path, body, headers)
            answer = connection.getresponse()
            answer.read(65536)
            if not answer.isclosed():
                self._disconnect()  # its end is far: nothing of it is wanted
        except (OSError, http.client.HTTPException) as error:
            self._disconnect()
            if reused and not self._closing.is_set():
                self._post(body)  # the collector has closed an idle connection: that is no failure
                return
            raise _Refused(f"{type(error).__name__}: {error}", 0.0) from error
        if answer.will_close:
            self._disconnect()
        if not 200 <= answer.status < 300:
            wait = _seconds(answer.getheader("Retry-After")) if answer.status in _AGAIN else None
            raise _Refused(f"it answered {answer.status}", wait)

    def _connect(self) -> http.client.HTTPConnection:
        if self._tls:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(self._host, self._port, timeout=_TIMEOUT, context=context)
        return http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _complain(self, why: str) -> None:
        """Say once that something is wrong, until it is right again."""
        if not self._failing:
            self._failing = True
            _log.warning("spans cannot be sent to %s (%s): what no longer fits is dropped", self._place, why)


def _seconds(value: str | None) -> float:
    """Return what Retry-After says; a date counts as nothing."""
    return min(float(value), _LONGEST_WAIT) if value is not None and value.isdecimal() and len(value) < 6 else 0.0
