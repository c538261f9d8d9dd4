"""Purges by the admin API and the command line, in two real workers: none of them serves what was purged."""

import os
import subprocess
import sys

from tests.kit.caching import FRESH, Origin
from tests.kit.servers import redis_server
from tests.kit.wire import get

CONFIG = """
workers: 2
state: {{redis: "{redis}"}}
services: {{s: {{targets: ["{url}"]}}}}
routes: [{{name: all, match: {{path: "/{{rest...}}"}}, service: s}}]
plugins: [{{cache: {settings}}}]
"""
TAGS = {"a?x": "red", "ab": "red blue", "b": "blue"}
PURGES = [
    ({"url": "http://TEST/0/./a?x"}, {"kind": "url", "value": "http://test/0/a?x"}, {"a?x"}),
    ({"prefix": "http://Test/1/a"}, {"kind": "prefix", "value": "http://test/1/a"}, {"a?x", "ab"}),
    ({"tag": "blue"}, {"kind": "tag", "value": "blue"}, {"ab", "b"}),
    ({"all": True}, {"kind": "all", "value": ""}, set(TAGS)),
]


class Shop:
    """A gateway of two workers with a cache, and its target. What is asked for lies below /`number`."""

    def __init__(self, run, target, settings="{}", redis=""):
        self.origin = Origin()
        self.begin(0)
        self.gateway = run(CONFIG.format(url=target(self.origin).url, redis=redis, settings=settings)).ready()

    def begin(self, number):
        """Go over to other paths, which nobody has asked for."""
        self.number = number
        self.say("old")

    def say(self, text):
        """Have the target answer with `text` from now on."""
        for name, tags in TAGS.items():
            head = [*FRESH, f"Surrogate-Key: {tags}", f"Content-Length: {len(text)}"]
            answer = "\r\n".join(["HTTP/1.1 200 OK", *head, "", text]).encode()
            self.origin.replies[self.path(name).partition("?")[0]] = [answer]

    def path(self, name):
        return f"/{self.number}/{name}"

    def ask(self, name):
        return get(self.gateway.port, self.path(name)).body.decode()

    def asked(self, name):
        return self.origin.asked(self.path(name).partition("?")[0])

    def fill(self):
        """Have both workers keep what the target says now."""
        for name in TAGS:
            self.gateway.until(lambda name=name: self.ask(name) and self.asked(name) == 2, f"{name} in both workers")

    def served(self, times=10):
        """What clients get of everything; each connection goes to one worker or the other."""
        return {name: {self.ask(name) for _ in range(times)} for name in TAGS}

    def purge(self, wish):
        return self.gateway.admin("POST", "/cache/purge", wish)


def after(gone):
    return {name: {"new" if name in gone else "old"} for name in TAGS}


def test_no_worker_serves_what_was_purged(run, target):
    shop = Shop(run, target)
    for number, (wish, told, gone) in enumerate(PURGES):
        shop.begin(number)
        shop.fill()
        shop.say("new")
        assert shop.served(4) == after(()), wish
        assert shop.purge(wish) == (202, {**told, "workers": 2})
        assert shop.served() == after(gone), wish
    assert shop.gateway.end() == 0


def test_what_was_purged_is_not_in_redis_either(run, target):
    with redis_server() as redis:
        shop = Shop(run, target, "{store: redis, redis_timeout: 2s}", redis.url)
        for number, (wish, _, gone) in enumerate(PURGES):
            shop.begin(number)
            for name in TAGS:
                shop.ask(name)
            redis.until(lambda number=number: len(redis.ask("KEYS", f"*:e:*/{number}/*")) == len(TAGS), "all answers")
            assert shop.served(4) == after(()), wish
            assert [shop.asked(name) for name in TAGS] == [1, 1, 1]
            shop.say("new")
            assert shop.purge(wish)[0] == 202
            assert shop.served() == after(gone), wish
        assert shop.gateway.end() == 0


def test_the_command_line_purges(run, target):
    shop = Shop(run, target)
    shop.fill()
    shop.say("new")
    done = subprocess.run(
        [sys.executable, "-c", "from gatewright.cli import main; main()", "purge", "--tag", "blue"],
        env={**os.environ, "GATEWRIGHT_ADMIN": f"http://127.0.0.1:{shop.gateway.admin_port}"},
        capture_output=True,
        check=False,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "purged in 2 workers: tag blue\n", "")
    assert shop.served() == after({"ab", "b"})
    assert shop.gateway.end() == 0
