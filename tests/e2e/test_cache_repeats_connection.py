"""What a connection is and does when hits are answered again by their bytes: pieces, backpressure, time, draining."""

from tests.kit.caching import FRESH
from tests.kit.inside import until
from tests.kit.repeating import ENOUGH, bytes_of, learnt
from tests.kit.wire import RawSocket, get

# The connection


def test_requests_in_one_piece_are_read_one_by_one(bench, taken):
    it = bench()
    one, two = learnt(it, body=b"one"), learnt(it, body=b"two")
    with RawSocket.connect(it.port) as client:
        for _ in range(5):
            client.send(bytes_of(one) + bytes_of(two) + bytes_of(one))
            assert [client.read_answer().body for _ in range(3)] == [b"one", b"two", b"one"]
        assert taken == []
        client.send(bytes_of(two))
        assert client.read_answer().body == b"two"
        assert taken == [True]


def test_bytes_in_the_middle_of_a_message_are_no_request(bench, taken):
    it = bench()
    path, other = learnt(it), it.path()
    it.origin.replies[other] = [it.reply(200, [], b"other")]
    known = bytes_of(path)
    with RawSocket.connect(it.port) as client:

        def in_two(first, wanted):
            client.send(first)
            until(it.running, lambda: wanted in {each.state.value for each in it.running.listeners[0].connections})
            client.send(known)
            return client.read_answer()

        client.send(known[:20])
        until(it.running, lambda: any(each.state.value == "head" for each in it.running.listeners[0].connections))
        client.send(known[20:])
        assert client.read_answer().body == b"old"
        assert in_two(f"GET {other} HTTP/1.1\r\nX-A: ".encode(), "head").body == b"other"
        body = f"POST {other} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(known)}\r\n\r\n".encode()
        assert in_two(body, "busy").body == b"other"
        assert taken == []
        assert it.target.received.endswith(known)
        client.send(known)
        assert client.read_answer().body == b"old"
    assert taken == [True]


def test_a_head_that_came_in_two_is_learnt_as_a_whole(bench, taken):
    it = bench()
    path = it.path()
    it.origin.replies[path] = [it.reply(200, FRESH, b"old")]
    known = bytes_of(path)
    with RawSocket.connect(it.port) as client:
        for _ in range(1 + ENOUGH):
            client.send(known[:20])
            until(it.running, lambda: any(each.state.value == "head" for each in it.running.listeners[0].connections))
            client.send(known[20:])
            assert client.read_answer().body == b"old"
        client.send(known)
        assert client.read_answer().body == b"old"
    assert taken == [True]


def congest(it, client, path, taken):
    """Ask for what is known until answers pile up in the gateway; return the client's connection and how often."""
    (connection,) = it.running.listeners[0].connections
    while not connection.congested:
        before = len(taken)
        client.send(bytes_of(path))
        until(it.running, lambda before=before: len(taken) > before)
    return connection, len(taken)


def test_a_client_that_does_not_read_is_waited_for(bench, taken):
    it = bench()
    path = learnt(it, size=900_000)
    known = bytes_of(path)
    with RawSocket.connect(it.port) as client:
        until(it.running, lambda: it.running.gateway.connections == 1)
        connection, asked = congest(it, client, path, taken)
        for more in range(1, 4):
            client.send(known)
            until(it.running, lambda more=more: len(connection._codec.buffer) == more * len(known))
        assert len(taken) == asked, "nothing was answered to who does not read"
        for _ in range(asked + 3):
            assert client.read_answer().body == b"old".ljust(900_000)
    assert it.origin.asked(path) == 1


def test_a_client_that_reads_slowly_is_given_time(bench, taken):
    it = bench("{max_entry: 16MB}")
    path = learnt(it, size=12_000_000)
    with RawSocket.connect(it.port) as client:
        until(it.running, lambda: it.running.gateway.connections == 1)
        connection, asked = congest(it, client, path, taken)
        before = connection.transport.get_write_buffer_size()
        client.fill()
        while connection.transport.get_write_buffer_size() == before:
            client.fill()
        it.clock.passed += 80
        it.running.call(connection._timers.expire, it.clock.now())
        for _ in range(asked):
            assert client.read_answer().body == b"old".ljust(12_000_000)


def test_the_connection_stays_for_its_time(bench, taken):
    it = bench()
    path = learnt(it)
    with RawSocket.connect(it.port) as client:
        client.send(bytes_of(path))
        client.read_answer()
        (connection,) = it.running.listeners[0].connections
        first = connection.deadline
        it.clock.passed += 30
        client.send(bytes_of(path))
        client.read_answer()
        assert connection.deadline == first + 30 == it.clock.now() + it.running.gateway.config.limits.keepalive_timeout
    assert taken == [True, True]


def test_a_shorter_time_holds_at_once(gateway, target, taken):
    config = (
        f"services: {{s: {{targets: ['{target().url}']}}}}\n"
        "routes: [{name: a, match: {path: /a}, service: s, plugins: [{cache: {ttl: 1h}}]}]\n"
    )
    running = gateway(config)
    with RawSocket.connect(running.port) as client:
        client.send(bytes_of("/a"))
        client.read_answer()
        (connection,) = running.listeners[0].connections
        running.reload(config + "limits: {keepalive_timeout: 5s}\n")
        for _ in range(3):
            get(running.port, "/a")
        client.send(bytes_of("/a"))
        client.read_answer()
        assert connection.filed < connection.deadline + 0.1
    assert taken[-1]


def test_draining_says_that_it_is_the_last(bench, taken):
    it = bench()
    path = learnt(it)
    with RawSocket.connect(it.port) as client:
        client.send(bytes_of(path))
        assert client.read_answer().get("connection") is None
        (listener,) = it.running.listeners
        it.running.call(listener.close)
        client.send(bytes_of(path))
        answer = client.read_answer()
        assert (answer.body, answer.get("connection")) == (b"old", "close")
        assert client.read_to_end() == b""
    assert taken == [True]


def test_draining_closes_a_connection_that_has_rested(bench, taken):
    it = bench()
    path = learnt(it)
    with RawSocket.connect(it.port) as client:
        client.send(bytes_of(path))
        client.read_answer()
        it.clock.passed += 2
        (listener,) = it.running.listeners
        it.running.call(listener.close)
        assert client.read_to_end() == b""
    assert taken == [True]
