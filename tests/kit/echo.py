"""A fast target: `python -m tests.kit.echo [TAG]` answers every request with its path and TAG; its first line of output
is its port. It ends at the end of its stdin."""

import asyncio
import sys
from typing import Any

import uvloop


class Echo(asyncio.Protocol):
    """Answers GET requests without bodies, pipelined or not."""

    def __init__(self, tag: bytes) -> None:
        self.tag = tag
        self.buffer = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        *heads, self.buffer = (self.buffer + data).split(b"\r\n\r\n")
        for head in heads:
            body = head.split(b" ", 2)[1] + b" " + self.tag
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def serve(tag: bytes) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Echo(tag), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    end = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), end.set)
    await end.wait()


if __name__ == "__main__":
    uvloop.run(serve((sys.argv[1] if len(sys.argv) > 1 else "echo").encode()))
