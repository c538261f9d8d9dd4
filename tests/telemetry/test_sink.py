"""LineSink: lines in batches, written by a thread, and never a wait on the event loop."""

import asyncio
import os
import threading
import time

import pytest

from gatewright.telemetry import sink as sink_module
from gatewright.telemetry.sink import BATCH_BYTES, LineSink


def on_a_loop(function):
    async def run():
        return function()

    return asyncio.run(run())


def test_lines_are_appended_to_a_file_in_order(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"before\n")

    def write():
        sink = LineSink(str(path))
        for number in range(1000):
            sink.write(b"%d\n" % number)
        sink.close()

    on_a_loop(write)
    assert path.read_bytes() == b"before\n" + b"".join(b"%d\n" % number for number in range(1000))


def test_a_batch_is_one_write(tmp_path, monkeypatch):
    writes = []
    real = os.write
    monkeypatch.setattr(sink_module.os, "write", lambda fd, data: (writes.append(len(data)), real(fd, data))[1])

    def write():
        sink = LineSink(str(tmp_path / "log"))
        for _ in range(100):
            sink.write(b"line\n")
        sink.close()

    on_a_loop(write)
    assert writes == [500]


def test_a_full_batch_is_not_held_back(tmp_path):
    path = tmp_path / "log"

    def write():
        sink = LineSink(str(path))
        sink.write(b"x" * BATCH_BYTES + b"\n")
        assert sink.wait()
        assert path.stat().st_size == BATCH_BYTES + 1
        sink.close()

    on_a_loop(write)


def test_a_small_batch_is_flushed_after_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(sink_module, "FLUSH_SECONDS", 0.01)
    path = tmp_path / "log"

    async def run():
        sink = LineSink(str(path))
        sink.write(b"line\n")
        flushed = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, flushed.set)
        await flushed.wait()
        assert sink.wait()
        assert path.read_bytes() == b"line\n"
        sink.close()

    asyncio.run(run())


@pytest.fixture
def blocked_pipe(tmp_path):
    """A FIFO with a reader that reads nothing: (path, its reading end)."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield path, reader
    os.close(reader)


def test_a_reader_that_stalls_costs_lines_and_no_time(blocked_pipe, monkeypatch):
    monkeypatch.setattr(sink_module, "PENDING_BYTES", 512 * 1024)
    path, reader = blocked_pipe

    def write():
        sink = LineSink(str(path))
        begun = time.monotonic()
        for _ in range(2000):
            sink.write(b"x" * 1023 + b"\n")
        sink.flush()
        assert time.monotonic() - begun < 1
        assert 1000 < sink.dropped < 2000
        threading.Thread(target=drain, args=(reader,), daemon=True).start()
        assert sink.wait(5)
        sink.close()
        return sink.dropped

    dropped = on_a_loop(write)
    assert dropped < 2000


def drain(reader):
    os.set_blocking(reader, True)
    while os.read(reader, 65536):
        pass


def test_closing_does_not_wait_for_a_reader_for_ever(blocked_pipe):
    path, _ = blocked_pipe

    def write():
        sink = LineSink(str(path))
        sink.write(b"x" * 300_000)
        begun = time.monotonic()
        sink.close(timeout=0.1)
        return time.monotonic() - begun

    assert on_a_loop(write) < 1


def test_what_cannot_be_written_is_counted(tmp_path, monkeypatch):
    def fail(fd, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sink_module.os, "write", fail)

    def write():
        sink = LineSink(str(tmp_path / "log"))
        sink.write(b"one\n")
        sink.write(b"two\n")
        sink.close()
        return sink.dropped

    assert on_a_loop(write) == 2


def test_a_new_file_is_not_for_everybody(tmp_path):
    on_a_loop(lambda: LineSink(str(tmp_path / "log")).close())
    assert (tmp_path / "log").stat().st_mode & 0o007 == 0


def test_a_file_that_cannot_be_opened_is_an_error_at_once(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        LineSink(str(tmp_path / "none" / "log"))


def test_after_close_lines_are_ignored(tmp_path):
    def write():
        sink = LineSink(str(tmp_path / "log"))
        sink.close()
        sink.write(b"late\n")
        sink.close()

    on_a_loop(write)
    assert (tmp_path / "log").read_bytes() == b""
