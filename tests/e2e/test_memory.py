"""A gateway process stays small whatever passes through it. `python -m tests.big` does the same with 2 GiB."""

import os
import sys

import pytest

from tests.big import MEBIBYTE, connected, download, gateway_process, upload

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
MOST = 100.0  # MiB
SIZE = (2048 if os.environ.get("GATEWRIGHT_BIG") else 192) * MEBIBYTE


@pytest.mark.timeout(300)
@pytest.mark.parametrize("move", [upload, download])
def test_a_big_body_passes_without_being_held(tmp_path, move):
    with gateway_process(tmp_path) as gateway:
        rest = gateway.memory("VmRSS")
        done = move(gateway, SIZE)
        assert done.arrived == SIZE
        assert done.peak < MOST
        assert done.peak - rest < 20


def test_many_slow_clients_do_not_add_up(tmp_path):
    """Fifty clients ask for a megabyte each and do not read: each holds a bounded part of it in the gateway."""
    with gateway_process(tmp_path) as gateway:
        clients = [connected(gateway) for _ in range(50)]
        for client in clients:
            client.send(b"GET /%d HTTP/1.1\r\nHost: test\r\n\r\n" % (16 * MEBIBYTE))
        for client in clients:
            client.read_until(b"\r\n\r\n")
        assert gateway.memory("VmHWM") < MOST
        for client in clients:
            client.close()
