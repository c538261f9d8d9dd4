"""For tests of plugins and bodies: a gateway with a user's plugins on its only route, and requests that have a body."""

from tests.kit.answers import reply
from tests.plugins.test_phases import HEAD

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


def starter(gateway, target):
    """Return a function that starts a gateway with plugins of `code` on its only route: (running, target)."""

    def start(code, names, script=None, service="retry: {attempts: 0}"):
        upstream = target(script)
        plugins = ", ".join(f"{{use: './mine.py:{name}'}}" for name in names.split())
        config = (
            f'services:\n  s:\n    targets: ["{upstream.url}"]\n    {service}\n'
            f"routes:\n  - {{name: all, match: {{path: '/{{rest...}}'}}, service: s, plugins: [{plugins}]}}\n"
        )
        return gateway(config, files={"mine.py": HEAD + code}), upstream

    return start


def post(body, path="/", fields=""):
    return f"POST {path} HTTP/1.1\r\nHost: test\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body


def chunked(*pieces, path="/"):
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    return f"POST {path} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + body


def echo(session):
    while True:
        session.send(reply(200, session.read_request()[1]))
