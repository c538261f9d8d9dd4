"""Sending spans to a collector: OTLP over HTTP, in batches, by a thread of its own.

The event loop leaves finished exchanges in a bounded queue and never waits. What finds the queue full, or what the
collector does not take, is dropped and counted: a dead collector costs a counter. Made by the composition root.
"""

import http.client
import logging
import random
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from gatewright.core.clock import Clock
from gatewright.telemetry.otlp import Encoder
from gatewright.telemetry.tracing import Finished

_log = logging.getLogger("gatewright.tracing")

QUEUE = 4096  # exchanges that wait; one has 1 to 5 KB
BATCH = 512  # exchanges that are sent at once
FLUSH_SECONDS = 1.0
_SLICE = 32  # exchanges that are encoded at once: about 0.2 ms, in which the event loop may have to wait
_PAUSE_SECONDS = 0.0001
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
        self._waiting: deque[tuple[Any, ...]] = deque()
        self._full = 0  # spans that found the queue full; counted on the event loop
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

    def put(self, finished: tuple[Any, ...]) -> None:
        """Take the fields of a `Finished`. Called on the event loop."""
        waiting = self._waiting
        length = len(waiting)
        if length >= QUEUE or self._closing.is_set():
            self._full += _count(finished)
            return
        waiting.append(finished)
        if length + 1 == BATCH:
            self._wake.set()

    def set_routes(self, routes: Mapping[str, str]) -> None:
        """Take the paths of routes by name, for exchanges that are encoded from now on."""
        self._encoder.routes = routes

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
            while len(self._waiting) >= BATCH:
                self._send_batch()
            self._send_batch()
        while self._waiting:
            self._send_batch()
        self._disconnect()

    def _send_batch(self) -> None:
        """Encode and send a batch of what waits; nothing that goes wrong ends the thread."""
        batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        if not batch:
            return
        spans = self._encode(batch)
        batch.clear()
        try:
            self._deliver(self._encoder.request(spans))
        except _Refused as error:
            self._lost += len(spans)
            self._complain(str(error))
        except Exception:  # a defect: the gateway goes on without these
            self._lost += len(spans)
            _log.exception("spans could not be sent")

    def _encode(self, batch: Iterable[tuple[Any, ...]]) -> list[bytes]:
        spans: list[bytes] = []
        offset = round((self._clock.wall() - self._clock.now()) * _NANO)
        for number, fields in enumerate(batch, start=1):
            try:
                spans += self._encoder.spans(Finished(*fields), offset)
            except Exception:
                self._lost += _count(fields)
                _log.exception("the spans of an exchange could not be encoded")
            if number % _SLICE == 0 and not self._closing.is_set():
                time.sleep(_PAUSE_SECONDS)  # the event loop may have been waiting for the interpreter
        return spans

    def _deliver(self, body: bytes) -> None:
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

    def _post(self, body: bytes) -> None:
        """Send a request on the connection there is, or else on a new one. Raises _Refused."""
        reused = self._connection is not None
        try:
            connection = self._connection = self._connection or self._connect()
            connection.request("POST", self._path, body, self._headers)
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


def _count(fields: tuple[Any, ...]) -> int:
    """Return how many spans an exchange has; its trace is the first field of a `Finished`."""
    return 1 + len(fields[0].attempts)


def _seconds(value: str | None) -> float:
    """Return what Retry-After says; a date counts as nothing."""
    return min(float(value), _LONGEST_WAIT) if value is not None and value.isdecimal() and len(value) < 6 else 0.0
