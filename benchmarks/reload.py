"""Reload of a large configuration: `python -m benchmarks.reload [ROUTES]`.

Owns its own gateway with so many routes and two workers, and measures what each process takes, how long a reload lasts,
and what a client with a request every few milliseconds notices of it. Bounded: ten reloads.
"""

import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.process import memory_of

RELOADS = 10
_READY_SECONDS = 30.0


def _configuration(routes: int, number: int) -> str:
    lines = [
        'listeners: [{bind: "127.0.0.1:0"}]',
        'admin: {bind: "127.0.0.1:0"}',
        "access_log: false\nwatch: false\nworkers: 2",
        'services: {s: {targets: ["http://127.0.0.1:9"]}}',
        "routes:",
        f"  - {{name: here, match: {{path: /here}}, respond: {{status: 200, body: '{number}'}}}}",
    ]
    lines += [
        f"  - {{name: r{i}, match: {{path: '/team{i % 50}/service{i}/{{rest...}}', methods: [GET, POST]}}, service: s, "
        f"rewrite: '/{{rest}}', plugins: [{{headers: {{request: {{set: {{x-route: 'r{i}'}}}}}}}}]}}"
        for i in range(routes)
    ]
    return "\n".join(lines) + "\n"


class _Client(threading.Thread):
    """Asks all the time, and keeps the durations in seconds."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port, self.over, self.seconds = port, threading.Event(), list[float]()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self.over.wait(0.002):
            began = time.perf_counter()
            connection.request("GET", "/here")
            assert connection.getresponse().read()
            self.seconds.append(time.perf_counter() - began)

    def finish(self) -> list[float]:
        self.over.set()
        self.join()
        return sorted(self.seconds)


def _port_after(process: subprocess.Popen[str], words: str) -> int:
    deadline = time.monotonic() + _READY_SECONDS
    assert process.stderr is not None
    while time.monotonic() < deadline:
        line = process.stderr.readline()
        if words in line:
            return int(line.rpartition(":")[2])
    raise SystemExit("the gateway does not start")


def _ask(port: int, method: str, path: str) -> dict[str, object]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request(method, path)
    answer = connection.getresponse()
    body: dict[str, object] = json.loads(answer.read())
    assert answer.status == 200, body
    return body


def main() -> None:
    """Measure and print."""
    routes = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory(prefix="gatewright-bench-") as folder:
        file = Path(folder, "gateway.yaml")
        file.write_text(_configuration(routes, 0))
        command = [sys.executable, "-c", "from gatewright.cli import main; main()", "run", str(file)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                port, admin = _port_after(process, "listening on"), _port_after(process, "admin API on")
                quiet = _Client(port)
                quiet.start()
                time.sleep(2)
                before = quiet.finish()
                busy = _Client(port)
                busy.start()
                seconds = []
                for number in range(1, RELOADS + 1):
                    file.write_text(_configuration(routes, number))
                    began = time.perf_counter()
                    _ask(admin, "POST", "/reload")
                    seconds.append(time.perf_counter() - began)
                during = busy.finish()
                print(f"{routes:,} routes, 2 workers, {RELOADS} reloads")
                print(f"reload                 median {statistics.median(seconds):.2f} s, longest {max(seconds):.2f} s")
                for name, found in (("without reloads", before), ("during reloads", during)):
                    p50, p99 = found[len(found) // 2], found[int(len(found) * 0.99)]
                    shown = f"p50 {p50 * 1000:.2f} ms, p99 {p99 * 1000:.2f} ms, max {found[-1] * 1000:.1f} ms"
                    print(f"request {name:15s}{shown}")
                workers = _ask(admin, "GET", "/status")["workers"]
                assert isinstance(workers, list)
                for name, pid in [("supervisor", process.pid), *((f"worker {w['index']}", w["pid"]) for w in workers)]:
                    memory = memory_of(pid)
                    pss = f"{memory.pss / 2**20:.0f}" if memory.pss is not None else "?"
                    print(f"{name:22s} RSS {memory.rss / 2**20:.0f} MiB, PSS {pss} MiB")
            finally:
                process.terminate()


if __name__ == "__main__":
    main()
