"""For tests of answers that are given again: requests that a gateway with a cache knows by their bytes."""

from tests.kit.caching import FRESH, Bench

ENOUGH = 2  # hits after which the next is answered again


def learnt(it: Bench, *fields: str, body: bytes = b"old", size: int = 0) -> str:
    """A path whose request is known by its bytes; its target's next answer would be `new`."""
    path = it.path()
    it.origin.replies[path] = [it.reply(200, [*FRESH, *fields], body.ljust(size)), it.reply(200, FRESH, b"new")]
    for _ in range(1 + ENOUGH):
        assert it.ask(path).body.strip() == body
    assert it.origin.asked(path) == 1
    return path


def bytes_of(path: str, more: str = "") -> bytes:
    """What `Bench.ask` sends."""
    return f"GET {path} HTTP/1.1\r\nHost: test\r\n{more}\r\n".encode()
