"""Big bodies through a gateway process: how much memory it takes, and that every byte arrives.

`python -m tests.big [MiB]` measures (2048 by default) and prints; `e2e/test_memory.py` asserts on smaller sizes. The
target and the client are threads of this process; the gateway is `gatewright run` in a process of its own.
"""

import contextlib
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.kit.wire import RawSocket, Target, TargetSession

MEBIBYTE = 1024 * 1024
PIECE = bytes(range(256)) * 4096
PATIENCE = 60.0  # seconds that one read or write may take

CONFIG = """
listeners: [{{bind: "127.0.0.1:0"}}]
access_log: false
limits: {{body: 4GiB}}
services: {{s: {{targets: ["{url}"], timeouts: {{total: 0, response: 60s}}}}}}
routes: [{{name: all, match: {{path: "/{{rest...}}"}}, service: s}}]
"""


class GatewayProcess:
    """`gatewright run` on a free port."""

    def __init__(self, config: Path) -> None:
        command = [sys.executable, "-c", "from gatewright.cli import main; main()", "run", str(config)]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if found := re.search(r"listening on http://127\.0\.0\.1:([0-9]+)", line):
                self.port = int(found.group(1))
                return
        raise RuntimeError("the gateway did not start")

    def memory(self, what: str) -> float:
        """MiB of `VmRSS` (now) or `VmHWM` (the most so far)."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(rf"{what}:\s+([0-9]+) kB", status)
        assert found is not None
        return int(found.group(1)) / 1024

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)
        assert self._process.stderr is not None
        self._process.stderr.close()


def read_and_count(peer: RawSocket, count: int) -> int:
    """Read up to `count` bytes and forget them; return how many came."""
    buffer = bytearray(MEBIBYTE)
    left = count - len(peer.buffer)
    peer.buffer = b""
    while left and (got := peer.sock.recv_into(buffer, min(left, MEBIBYTE))):
        left -= got
    return count - left


def write(peer: RawSocket, count: int) -> None:
    whole, rest = divmod(count, len(PIECE))
    for _ in range(whole):
        peer.send(PIECE)
    peer.send(PIECE[:rest])


def serve(session: TargetSession) -> None:
    """`GET /<bytes>` gives so many; POST counts what it is given."""
    session.sock.settimeout(PATIENCE)
    while True:
        try:
            head = session.read_head()
        except EOFError:
            return
        if head.startswith(b"GET /"):
            count = int(head[5:].split(b" ")[0])
            session.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % count)
            write(session, count)
        else:
            count = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            answer = str(read_and_count(session, count)).encode()
            session.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))


@dataclass
class Transfer:
    """One measurement: bytes that arrived, the gateway's peak in MiB, seconds of the clock and of its CPU."""

    arrived: int
    peak: float
    seconds: float
    cpu: float


def upload(gateway: GatewayProcess, count: int) -> Transfer:
    began, cpu = time.monotonic(), gateway.cpu_seconds()
    with connected(gateway) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % count)
        write(client, count)
        arrived = int(client.read_answer().body)
    return Transfer(arrived, gateway.memory("VmHWM"), time.monotonic() - began, gateway.cpu_seconds() - cpu)


def download(gateway: GatewayProcess, count: int) -> Transfer:
    began, cpu = time.monotonic(), gateway.cpu_seconds()
    with connected(gateway) as client:
        client.send(b"GET /%d HTTP/1.1\r\nHost: test\r\n\r\n" % count)
        client.read_until(b"\r\n\r\n")
        arrived = read_and_count(client, count)
    return Transfer(arrived, gateway.memory("VmHWM"), time.monotonic() - began, gateway.cpu_seconds() - cpu)


def connected(gateway: GatewayProcess) -> RawSocket:
    client = RawSocket(socket.create_connection(("127.0.0.1", gateway.port)))
    client.sock.settimeout(PATIENCE)
    return client


@contextlib.contextmanager
def gateway_process(folder: Path) -> Iterator[GatewayProcess]:
    """A gateway process before a target that takes and gives bodies of any size."""
    with Target(serve) as target:
        config = folder / "gateway.yaml"
        config.write_text(CONFIG.format(url=target.url))
        gateway = GatewayProcess(config)
        try:
            yield gateway
        finally:
            gateway.stop()


def main() -> None:
    """Measure and print."""
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 2048
    with tempfile.TemporaryDirectory() as folder, gateway_process(Path(folder)) as gateway:
        print(f"at rest {gateway.memory('VmRSS'):.1f} MiB")  # noqa: T201
        for name, move in (("upload", upload), ("download", download)):
            done = move(gateway, size * MEBIBYTE)
            assert done.arrived == size * MEBIBYTE, f"{done.arrived} bytes arrived"
            print(  # noqa: T201
                f"{name} of {size} MiB: peak {done.peak:.1f} MiB, {done.seconds:.1f} s,"
                f" {size / done.seconds:.0f} MiB/s, {done.cpu:.2f} s CPU of the gateway"
            )


if __name__ == "__main__":
    main()
