"""A tunnel that carries nothing is closed in time; one that carries something is not."""

import threading

from tests.kit.wire import TIMEOUT, RawSocket, TargetSession

UPGRADE = b"GET /ws HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"


def test_a_silent_tunnel_is_closed_on_both_sides(proxy, target):
    ended = threading.Event()

    def echo(session: TargetSession) -> None:
        session.read_head()
        session.send(SWITCHED)
        while session.fill():
            data, session.buffer = session.buffer, b""
            session.send(data)
        ended.set()

    upstream = target(echo)
    running = proxy(upstream, service="timeouts: {tunnel: 200ms}")
    with RawSocket.connect(running.port) as client:
        client.send(UPGRADE)
        assert client.read_answer().status == 101
        for _ in range(3):
            client.send(b"ping")
            assert client.read_exactly(4) == b"ping"
        assert client.read_to_end() == b""
    assert ended.wait(TIMEOUT)
