"""What systemd is told."""

import os
import re
import socket

import pytest

from gatewright.supervisor.notify import Notifier


@pytest.mark.parametrize("abstract", [False, True])
def test_states_are_sent_and_the_environment_is_cleaned(monkeypatch, tmp_path, abstract):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        name = f"gatewright-test-{os.getpid()}"
        manager.bind("\0" + name if abstract else str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name if abstract else str(tmp_path / "notify"))
        notifier = Notifier()
        assert "NOTIFY_SOCKET" not in os.environ
        notifier.ready()
        notifier.reloading()
        notifier.stopping()
        manager.settimeout(5)
        assert manager.recv(1000).startswith(b"READY=1\n")
        assert re.match(rb"RELOADING=1\nMONOTONIC_USEC=\d+\n", manager.recv(1000))
        assert manager.recv(1000).startswith(b"STOPPING=1\n")


def test_without_systemd_and_with_one_that_is_gone_nothing_happens(monkeypatch, tmp_path):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Notifier().ready()
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    Notifier().ready()
