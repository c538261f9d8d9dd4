"""Configurations for tests of reloads: routes that answer themselves, and a plugin that leaves its mark.

Knows the texts only; who reloads is the test.
"""

import os

REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
SAYING = "routes: [{{name: all, match: {{path: '/{{rest...}}'}}, respond: {{body: '{0}'}}, plugins: {1}}}]\n"
PLUGIN = """
from gatewright import Plugin
class Marks(Plugin):
    def on_response(self, exchange, response):
        response.headers.set("x-mark", "{mark}")
"""
USE = '[{use: "./marks.py:Marks"}]'


def saying(text: str, plugins: str = "[]") -> str:
    """A configuration whose only route answers `text` itself."""
    return SAYING.format(text, plugins)


def open_files() -> int:
    """How many files, sockets and pipes this process has open."""
    return len(os.listdir("/proc/self/fd"))
