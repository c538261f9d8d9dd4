"""A gateway whose workers, plugins and streams are disturbed: what the tests of that share."""

CONFIG = """
workers: {workers}
shutdown: {{grace: 2s}}
services: {{s: {{targets: ["{url}"]}}}}
routes:
  - {{name: here, match: {{path: /here}}, respond: {{status: 200, body: here}}}}
  - {{name: all, match: {{path: "/{{rest...}}"}}, service: s}}
"""
PLUGIN = """
from gatewright import Plugin, PluginConfig
class Mine(Plugin[PluginConfig]):
    def on_request(self, exchange):
        pass
"""
PICKY = """
import pathlib
from gatewright import Plugin, PluginConfig
class Mine(Plugin[PluginConfig]):
    async def start(self):
        if (pathlib.Path(__file__).parent / "broken").exists():
            raise OSError("no database")
"""
USE = 'plugins: [{use: "./mine.py:Mine"}]\n'
BEGUN = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n"


def streaming(session):
    session.read_request()
    session.send(BEGUN)
    session.read_to_end()
