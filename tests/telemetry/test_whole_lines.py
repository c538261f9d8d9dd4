"""Several real processes write to one place: every line arrives whole, and each writer's lines in their order."""

import json
import os
import re
import resource
import subprocess
import sys
import threading

import pytest

from gatewright.telemetry.whole_lines import PIPE_BUF, WholeLines

PROCESSES, LINES = 4, 400
# Writes lines of 50 to 9000 bytes through a sink, and between them records of the gateway's own log.
WRITER = """
import asyncio, json, logging, os, random, sys
from gatewright.telemetry.own_log import start_own_log
from gatewright.telemetry.sink import LineSink

async def main(destination, writer, lines):
    own = start_own_log(label=f"worker {writer}")
    sink = LineSink(destination)
    sizes = random.Random(writer)
    for number in range(lines):
        line = json.dumps({"writer": writer, "number": number, "pad": ""}).encode()
        size = sizes.choice((50, 200, 600, 4095, 4096, 4097, 9000))
        sink.write(line[:-2] + b"x" * (size - len(line) - 1) + line[-2:] + b"\\n")
        if not number % 5:
            logging.getLogger("test").info("record %d %s", number, "y" * (number * 20))
            sink.flush()
            await asyncio.sleep(0)
    sink.close(30)
    own.wait(30)
    assert sink.dropped == 0

os.write(int(sys.argv[4]), b".")
sys.stdin.read()
asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""


def run(destination, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
    """Let them all write at the same time."""
    waiting, ready = os.pipe()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, destination, str(number), str(LINES), str(ready)],
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            pass_fds=[ready],
        )
        for number in range(PROCESSES)
    ]
    os.close(ready)
    with os.fdopen(waiting, "rb") as pipe:
        assert pipe.read(PROCESSES) == b"." * PROCESSES
    for process in processes:
        process.stdin.close()
    return processes


def check(data, own_records):
    assert data.endswith(b"\n")
    seen = {number: [] for number in range(PROCESSES)}
    records = 0
    for line in data.splitlines():
        if not line.startswith(b"{"):
            head, _, pad = line.partition(b"record ")
            number, _, pad = pad.partition(b" ")
            assert re.fullmatch(rb"[0-9:.]{12} gatewright worker [0-9]: INFO test: ", head)
            assert pad == b"y" * (int(number) * 20)
            records += 1
        else:
            content = json.loads(line)
            assert set(content["pad"]) <= {"x"}
            seen[content["writer"]].append(content["number"])
    assert seen == {number: list(range(LINES)) for number in range(PROCESSES)}
    assert records == (PROCESSES * LINES // 5 if own_records else 0)


def test_one_pipe_for_both_logs():
    reader, writer = os.pipe()
    processes = run("stdout", writer, writer)
    os.close(writer)
    data = bytearray()
    while piece := os.read(reader, 3000):  # so slowly that the pipe is always full, and writes stop in their middle
        data += piece
    os.close(reader)
    assert [process.wait(30) for process in processes] == [0] * PROCESSES
    check(data, own_records=True)


@pytest.mark.parametrize("flags", [0, os.O_APPEND], ids=["shared offset", "append"])
def test_one_file_as_stdout(tmp_path, flags):
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | flags)
    processes = run("stdout", fd, fd)
    os.close(fd)
    assert [process.wait(30) for process in processes] == [0] * PROCESSES
    check((tmp_path / "log").read_bytes(), own_records=True)


def test_one_file_by_its_path(tmp_path):
    path = tmp_path / "log"
    assert [process.wait(30) for process in run(str(path))] == [0] * PROCESSES
    check(path.read_bytes(), own_records=False)


def test_a_pipe_gets_pieces_of_whole_lines(monkeypatch):
    pieces = []
    reader, writer = os.pipe()
    monkeypatch.setattr(os, "write", lambda fd, data: pieces.append(bytes(data)) or len(data))
    lines = [b"a" * size + b"\n" for size in (10, 2000, 2000, PIPE_BUF - 1, PIPE_BUF, 5 * PIPE_BUF, 1)]
    assert WholeLines(writer).write(b"".join(lines)) == 0
    os.close(reader)
    os.close(writer)
    assert b"".join(pieces) == b"".join(lines)
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert all(len(piece) <= PIPE_BUF or piece.count(b"\n") == 1 for piece in pieces)
    assert len(pieces) < len(lines)


def test_a_gone_reader_costs_the_lines_from_there_on():
    reader, writer = os.pipe()
    os.close(reader)
    assert WholeLines(writer).write(b"one\ntwo\n") == 2
    os.close(writer)


def test_a_full_disk_leaves_no_piece_of_a_line(tmp_path):
    """The limit of a file's size stands for the disk: the system takes a part of what is written, then refuses."""
    code = """
import os, resource, sys
from gatewright.telemetry.whole_lines import WholeLines
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
out = WholeLines(fd)
resource.setrlimit(resource.RLIMIT_FSIZE, (25, resource.RLIM_INFINITY))
lost = [out.write(b"0123456\\n" * 5), out.write(b"more\\n")]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
lost.append(out.write(b"again\\n"))
print(lost)
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    path = tmp_path / "log"
    told = subprocess.check_output([sys.executable, "-c", code, str(path)], text=True)
    assert told == "[2, 1, 0]\n"
    assert path.read_bytes() == b"0123456\n" * 3 + b"again\n"


def test_a_pipe_that_somebody_made_non_blocking_is_waited_for():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    data = b"".join(b"%06d\n" % number for number in range(50_000))
    lost = []
    thread = threading.Thread(target=lambda: lost.append(WholeLines(writer).write(data)) or os.close(writer))
    thread.start()
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == data
    thread.join()
    assert lost == [0]


def test_a_descriptor_that_is_not_open_is_an_error():
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    with pytest.raises(OSError, match="Bad file descriptor"):
        WholeLines(writer)
