"""Listening sockets: shares of workers, addresses in use, socket activation."""

import contextlib
import os
import socket
import subprocess
import sys

import pytest

from gatewright.control.fields import Address
from gatewright.supervisor.sockets import open_address


def port_of(sock):
    return sock.getsockname()[1]


def test_each_worker_has_a_socket_of_its_own_at_the_same_port():
    listening = open_address(Address("127.0.0.1", 0), 3, [])
    shares = [listening.share(index, 3) for index in range(3)]
    assert [len(share) for share in shares] == [1, 1, 1]
    assert len({share[0] for share in shares}) == 3
    assert len({port_of(share[0]) for share in shares}) == 1
    assert listening.place == f"127.0.0.1:{port_of(shares[0][0])}"
    listening.close()


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5, 9])
def test_no_socket_is_ever_without_a_worker_and_no_worker_without_a_socket(workers):
    listening = open_address(Address("127.0.0.1", 0), 4, [])
    listening.listen()
    shares = [listening.share(index, workers) for index in range(workers)]
    assert all(shares)
    assert len({sock for share in shares for sock in share}) == 4
    listening.close()


def test_a_name_stands_for_all_its_addresses(monkeypatch):
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)
    listening = open_address(Address("both.test", 0), 2, [])
    assert sorted(sock.getsockname()[0] for sock in listening.share(1, 2)) == ["127.0.0.1", "127.0.0.2"]
    assert len({place.port for place in listening.places}) == 1
    listening.close()


@pytest.mark.parametrize("reuse_port", [False, True])
def test_an_address_in_use_is_refused_even_where_the_kernel_would_share_it(reuse_port):
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="in use"):
            open_address(Address("127.0.0.1", port_of(other)), 1, [])


def test_a_closed_address_can_be_opened_again_at_once():
    listening = open_address(Address("127.0.0.1", 0), 2, [])
    listening.listen()
    port = port_of(listening.share(0, 2)[0])
    with socket.create_connection(("127.0.0.1", port), 5):
        listening.close()
    again = open_address(Address("127.0.0.1", port), 2, [])
    again.close()


def test_inherited_sockets_are_taken_by_address_and_shared():
    with socket.create_server(("127.0.0.1", 0)) as given, socket.create_server(("127.0.0.1", 0)) as other:
        inherited = [other, given]
        listening = open_address(Address("127.0.0.1", port_of(given)), 4, inherited)
        assert [listening.share(index, 4) for index in range(4)] == [[given]] * 4
        assert inherited == [other]
        listening.grow(8)
        assert listening.share(7, 8) == [given]
        listening.close()  # systemd has it still: who wants the address again, needs it
        assert inherited == [other, given]
        assert given.fileno() > 0


def test_nobody_is_sent_to_a_socket_that_nobody_serves_yet():
    listening = open_address(Address("127.0.0.1", 0), 2, [])
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", listening.places[0].port), 5)
    listening.listen()
    listening.grow(4)  # these may never be served: the reload can still fail
    for _ in range(40):
        with socket.create_connection(("127.0.0.1", listening.places[0].port), 5):
            pass
    shares = [listening.share(index, 2) for index in range(2)]
    assert [len(share) for share in shares] == [1, 1]
    accepted = 0
    for (sock,) in shares:
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.accept()[0].close()
                accepted += 1
    assert accepted == 40
    listening.close()


def test_more_workers_have_sockets_of_their_own():
    listening = open_address(Address("127.0.0.1", 0), 1, [])
    first = listening.share(0, 1)
    listening.grow(3)
    shares = [listening.share(index, 3) for index in range(3)]
    assert shares[0] == first
    assert len({share[0] for share in shares}) == 3
    assert len({port_of(share[0]) for share in shares}) == 1
    listening.close()


@pytest.mark.parametrize("hosts", [("127.0.0.1", "0.0.0.0"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "127.0.0.1")])
def test_addresses_of_ones_own_may_overlap(hosts):
    one = open_address(Address(hosts[0], 0), 2, [])
    one.listen()
    place = one.places[0]
    with pytest.raises(OSError, match="in use"):
        open_address(Address(hosts[1], place.port), 2, [])
    other = open_address(Address(hosts[1], place.port), 2, [], [place])
    other.listen()
    one.close()
    with socket.create_connection(("127.0.0.1", place.port), 5):
        pass
    other.close()


ACTIVATED = """
import os, socket
os.dup2({fd}, 3)
os.environ["LISTEN_PID"] = str(os.getpid() + {off})
from gatewright.supervisor.sockets import inherited_sockets
found = inherited_sockets()
print([sock.getsockname()[1] for sock in found], "LISTEN_FDS" in os.environ, [os.get_inheritable(s.fileno()) for s in found])
"""


@pytest.mark.parametrize("off", [0, 1], ids=["for us", "for another process"])
def test_systemd_passes_sockets_by_environment(off):
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = subprocess.run(
            [sys.executable, "-c", ACTIVATED.format(off=off, fd=server.fileno())],
            pass_fds=[server.fileno()],
            env={**os.environ, "LISTEN_FDS": "1"},
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        expected = f"[{port_of(server)}] False [False]" if not off else "[] False []"
        assert done.stdout.strip() == expected
