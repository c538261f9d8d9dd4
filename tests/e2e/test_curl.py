"""The real curl against the gateway: what people type, and what a well-known client expects of HTTP."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.wire import TargetSession

CURL = shutil.which("curl")
DATA = bytes(range(256)) * 12_000  # 3 MB: curl asks with Expect before it sends so much

if CURL is None and os.environ.get("CI"):
    raise RuntimeError("curl is missing: these tests are required where CI is set")
pytestmark = pytest.mark.skipif(CURL is None, reason="curl is not installed")


def curl(*arguments: str, folder: Path, code: int = 0) -> bytes:
    """Run curl with a time limit; return what it printed. `code` is its expected exit code."""
    done = subprocess.run(
        [CURL or "", "-sS", "--max-time", "20", "--noproxy", "*", *arguments],
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def mirror(session: TargetSession) -> None:
    """Answer with what was asked: method, path, chosen fields and the body's size."""
    while True:
        try:
            head, body = session.read_request()
        except EOFError:
            return
        line, *fields = head.decode("latin-1").rstrip().split("\r\n")
        method, path, _ = line.split(" ")
        told = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        if told.get("expect") == "100-continue":
            told["expect"] = "was forwarded"
        seen = {"method": method, "path": path, "size": len(body), "fields": told, "body_is_data": body == DATA}
        answer = json.dumps(seen).encode()
        session.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(answer))
        session.send(b"" if method == "HEAD" else answer)


class Mirror:
    """`mirror`, for clients that wait for 100."""

    def __call__(self, session: TargetSession) -> None:
        original = session.read_head

        def read_head() -> bytes:
            head = original()
            if b"\r\nExpect: 100-continue\r\n" in head:
                session.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            return head

        session.read_head = read_head  # type: ignore[method-assign]
        mirror(session)


@pytest.fixture
def url(proxy, target):
    return f"http://127.0.0.1:{proxy(target(Mirror())).port}"


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1", "--http2"])
def test_get_in_every_version_that_curl_asks_for(url, tmp_path, version):
    """With --http2 curl offers h2c by Upgrade, which is declined by an ordinary answer."""
    seen = json.loads(curl(version, f"{url}/a?b=1", folder=tmp_path))
    assert (seen["method"], seen["path"]) == ("GET", "/a?b=1")
    assert "upgrade" not in seen["fields"]


@pytest.mark.parametrize(
    ("arguments", "method"),
    [
        (["-T", "data"], "PUT"),
        (["-X", "POST", "-T", "data"], "POST"),
        (["--data-binary", "@data"], "POST"),
        (["--data-binary", "@data", "-H", "Transfer-Encoding: chunked"], "POST"),
        (["--data-binary", "@data", "-H", "Expect:"], "POST"),
        (["--data-binary", "@data", "-H", "Expect: 100-continue"], "POST"),
        (["-X", "PATCH", "--data-binary", "@data"], "PATCH"),
        (["-X", "DELETE", "--data-binary", "@data"], "DELETE"),
        (["-X", "BREW", "--data-binary", "@data"], "BREW"),
        (["--http1.0", "--data-binary", "@data"], "POST"),
    ],
)
def test_uploads_arrive_whole(url, tmp_path, arguments, method):
    (tmp_path / "data").write_bytes(DATA)
    seen = json.loads(curl(*arguments, f"{url}/up", folder=tmp_path))
    assert (seen["method"], seen["size"], seen["body_is_data"]) == (method, len(DATA), True)


def test_an_upload_from_a_pipe_is_chunked(url, tmp_path):
    done = subprocess.run(
        [CURL or "", "-sS", "--max-time", "20", "--noproxy", "*", "-T", "-", f"{url}/up"],
        input=DATA,
        capture_output=True,
        check=False,
        timeout=30,
    )
    seen = json.loads(done.stdout)
    assert (seen["method"], seen["body_is_data"]) == ("PUT", True)
    assert seen["fields"]["transfer-encoding"] == "chunked"


def test_forms_and_json(url, tmp_path):
    (tmp_path / "data").write_bytes(DATA)
    form = json.loads(curl("-F", "file=@data", "-F", "a=b", f"{url}/form", folder=tmp_path))
    assert form["fields"]["content-type"].startswith("multipart/form-data; boundary=")
    assert form["size"] > len(DATA)
    plain = json.loads(curl("-d", "a=1", "-d", "b=2", f"{url}/form", folder=tmp_path))
    assert (plain["size"], plain["fields"]["content-type"]) == (7, "application/x-www-form-urlencoded")


def test_a_refused_upload_tells_curl_why(proxy, target, tmp_path):
    """curl waits with its body (Expect), or sends it anyway: it learns 413 in both cases."""
    (tmp_path / "data").write_bytes(DATA)
    upstream = target()
    running = proxy(upstream, extra="limits: {body: 1MiB}\n")
    for extra in (["-H", "Expect: 100-continue"], ["-H", "Expect:"], ["-H", "Transfer-Encoding: chunked"]):
        out = curl(
            "-w", "%{http_code}", "-o", "answer", *extra, "--data-binary", "@data", f"http://127.0.0.1:{running.port}/",
            folder=tmp_path,
        )  # fmt: skip
        assert out == b"413"
        assert json.loads((tmp_path / "answer").read_bytes())["reason"] == "body_too_large"


def fixed(reply: bytes):
    def script(session: TargetSession) -> None:
        while True:
            try:
                session.read_request()
            except EOFError:
                return
            session.send(reply)

    return script


def test_compressed_answers_pass_untouched(proxy, target, tmp_path):
    packed = gzip.compress(b"hello " * 1000)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nVary: Accept-Encoding\r\nContent-Length: %d\r\n\r\n" % len(
        packed
    )
    upstream = target(fixed(head + packed))
    port = proxy(upstream).port
    assert curl("--compressed", f"http://127.0.0.1:{port}/", folder=tmp_path) == b"hello " * 1000
    assert curl(f"http://127.0.0.1:{port}/", folder=tmp_path) == packed
    assert b"\r\nAccept-Encoding: deflate, gzip" in upstream.received


def test_ranges_pass(proxy, target, tmp_path):
    reply = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-5/10\r\nContent-Length: 4\r\n\r\n2345"
    upstream = target(fixed(reply))
    port = proxy(upstream).port
    assert curl("-r", "2-5", f"http://127.0.0.1:{port}/", folder=tmp_path) == b"2345"
    assert b"\r\nRange: bytes=2-5\r\n" in upstream.received


def test_head_prints_the_fields_and_returns(url, tmp_path):
    head = curl("-I", f"{url}/h", f"{url}/h2", folder=tmp_path).decode()
    assert head.count("HTTP/1.1 200 OK\r\n") == 2
    assert "Content-Length: " in head
    assert "X-Request-ID: " in head


def test_several_urls_share_a_connection(url, tmp_path):
    out = curl("-w", "%{num_connects} ", *[f"{url}/{number}" for number in range(5)], folder=tmp_path).decode()
    assert [out.count(f'"path": "/{number}"') for number in range(5)] == [1] * 5
    assert out.replace("}1 ", "}| ").count("}0 ") == 4, "only the first connects"


def test_a_broken_off_answer_is_an_error_for_curl(proxy, target, tmp_path):
    def script(session: TargetSession) -> None:
        session.read_head()
        session.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello")

    port = proxy(target(script)).port
    out = curl(f"http://127.0.0.1:{port}/", folder=tmp_path, code=56 if sys.platform == "linux" else 18)
    assert out == b"hello"


def test_a_websocket_handshake_by_hand(proxy, target, tmp_path):
    """A target that refuses to upgrade answers as usual."""
    port = proxy(target(fixed(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 3\r\n\r\nno\n"))).port
    upgrade = ["-H", "Connection: Upgrade", "-H", "Upgrade: websocket", "-H", "Sec-WebSocket-Version: 13"]
    out = curl(
        "-w", "%{http_code}", *upgrade, "-H", "Sec-WebSocket-Key: x", f"http://127.0.0.1:{port}/", folder=tmp_path
    )
    assert out == b"no\n426"


def test_events_arrive_as_they_are_sent(proxy, target, tmp_path):
    import threading

    first_seen = threading.Event()

    def script(session: TargetSession) -> None:
        session.read_head()
        session.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: one\n\n")
        assert first_seen.wait(10)
        session.send(b"data: two\n\n")

    port = proxy(target(script)).port
    with subprocess.Popen(
        [CURL or "", "-sSN", "--max-time", "20", "--noproxy", "*", f"http://127.0.0.1:{port}/"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"data: one\n"
        first_seen.set()
        assert process.stdout.read() == b"\ndata: two\n\n"
    assert process.returncode == 0
