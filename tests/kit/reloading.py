"""For tests of reloads: configurations whose routes answer themselves, a plugin that leaves its mark, what is left over.

Who reloads is the test.
"""

import os

from tests.kit.gateway import RunningGateway

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


def all_ended(running: RunningGateway) -> bool:
    """Tell, on the gateway's loop, whether nothing is left of the configurations before the present one."""
    generations = running.gateway._generations
    assert generations is not None
    return not generations.earlier and not generations._ending


def open_files() -> int:
    """How many files, sockets and pipes this process has open."""
    return len(os.listdir("/proc/self/fd"))
