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
    monkeypatch.setattr(os, "write", lambda fd, data: (writes.append(len(data)), real(fd, data))[1])

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

    monkeypatch.setattr(os, "write", fail)

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


def test_a_named_pipe_without_a_reader_is_an_error_and_no_wait(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="No such device"):
        LineSink(str(tmp_path / "fifo"))


def test_reopening_splits_the_lines_where_it_was_asked_for(tmp_path):
    path = tmp_path / "log"

    def write():
        sink = LineSink(str(path))
        for day in range(3):
            sink.write(b"%d, told\n" % day)
            sink.flush()
            assert sink.wait()
            sink.write(b"%d, gathered\n" % day)
            path.rename(tmp_path / f"log.{day}")
            sink.reopen()
        sink.write(b"3\n")
        sink.close()

    on_a_loop(write)
    for day in range(3):
        assert (tmp_path / f"log.{day}").read_text() == f"{day}, told\n{day}, gathered\n"
    assert path.read_bytes() == b"3\n"


def test_reopening_that_fails_keeps_the_old_file_and_says_so(tmp_path, caplog):
    folder = tmp_path / "logs"
    folder.mkdir()

    def write():
        sink = LineSink(str(folder / "log"))
        sink.write(b"before\n")
        folder.rename(tmp_path / "old")
        sink.reopen()
        sink.write(b"after\n")
        sink.close()
        return sink.dropped

    assert on_a_loop(write) == 0
    assert (tmp_path / "old" / "log").read_bytes() == b"before\nafter\n"
    assert "cannot be opened anew (No such file or directory): lines still go to the old file" in caplog.text


def test_reopening_leaves_no_descriptors(tmp_path):
    def write():
        sink = LineSink(str(tmp_path / "log"))
        before = len(os.listdir("/dev/fd"))
        for number in range(20):
            (tmp_path / "log").rename(tmp_path / f"log.{number}")
            sink.reopen()
            sink.write(b"line\n")
            sink.flush()
            assert sink.wait()
        after = len(os.listdir("/dev/fd"))
        sink.close()
        return after - before

    assert on_a_loop(write) == 0


def test_reopening_stdout_does_nothing():
    def write():
        sink = LineSink("stdout")
        sink.reopen()
        sink.close()
        sink.reopen()

    on_a_loop(write)
    os.fstat(1)
