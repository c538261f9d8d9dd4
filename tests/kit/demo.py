"""The demo as processes on free ports: its services, and the repository's gateway.yaml in front of them.

It knows how they are started and asked; what they must answer is the tests' affair.
"""

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kit.process import GatewayProcess
from tests.kit.tokens import SECRET, token

ROOT = Path(__file__).resolve().parents[2]
NAMES = tuple(re.findall(r"^#?([A-Z][A-Z_]+)=", (ROOT / "docs/.env.example").read_text(), re.MULTILINE))
CLEAN = {name: value for name, value in os.environ.items() if name not in NAMES}  # the user's own settings stay out
JSON = {"content-type": "application/json"}


class Answer:
    """An answer, read to its end."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.text = response.read().decode()

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.text)


class Asked:
    """Something that listens on `port` of 127.0.0.1."""

    port: int

    def connection(self) -> closing[http.client.HTTPConnection]:
        return closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10))

    def send(self, method: str, path: str, body: str | None = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Send a request on a connection of its own; a body is said to be JSON."""
        with self.connection() as connection:
            connection.request(method, path, body, {**(JSON if body is not None else {}), **(headers or {})})
            return Answer(connection.getresponse())


class Service(Asked):
    """A running service: its process and its port on 127.0.0.1."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: str | None = None) -> tuple[int, object]:
        """Status and decoded JSON body of the answer."""
        answer = self.send(method, path, body)
        return answer.status, answer.json


@contextmanager
def uvicorn(app: str, port: int = 0, folder: Path = ROOT, **environ: str) -> Iterator[Service]:
    """Run an ASGI application by uvicorn, on a free port unless one is given."""
    command = [sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--timeout-graceful-shutdown", "1", "--no-access-log"]
    with subprocess.Popen(
        command, cwd=folder, env={**CLEAN, **environ}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            said = ""
            for line in process.stderr:
                said += line
                if match := re.search(r"running on http://127\.0\.0\.1:(\d+)", line):
                    yield Service(process, int(match[1]))
                    break
            else:
                pytest.fail(f"{app} did not start: {said}")
        finally:
            process.terminate()
            try:
                process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


def copy_demo(folder: Path) -> Path:
    """Make `folder` look as the repository does to the gateway, without a developer's own .env."""
    for name in ("gateway.yaml", "main.py"):
        shutil.copy(ROOT / name, folder)
    (folder / "services").symlink_to(ROOT / "services")
    (folder / "docs").mkdir()
    return folder


class Demo(Asked):
    """A running gateway of gateway.yaml. It looks at its services often, and logs to access.log in its folder."""

    def __init__(self, folder: Path, **environ: str) -> None:
        copy_demo(folder)
        config = (ROOT / "gateway.yaml").read_text()
        for text, other in (("interval: 5s", "interval: 100ms"), ("destination: stdout", "destination: access.log")):
            assert text in config, f"{text} is no longer in gateway.yaml"
            config = config.replace(text, other)
        ours = dict.fromkeys(NAMES, "") | {"HOST": "127.0.0.1", "PORT": "0", "ADMIN_PORT": "0", "JWT_SECRET": SECRET}
        ours["STATE_DIRECTORY"] = str(folder / "state")
        self.process = GatewayProcess(folder, config, ours | environ)
        try:
            self.port = self.process.ready().port
        except BaseException:
            self.process.kill()
            raise

    def ask(self, method: str, path: str, body: Any = None, sub: str = "ann", **headers: str) -> Answer:
        """Send a request with a good token for consumer `sub`, and `body` as JSON."""
        fields = {"Authorization": f"Bearer {token(sub=sub)}"} | headers
        return self.send(method, path, None if body is None else json.dumps(body), fields)

    def health(self) -> Any:
        """What `GET /health` says."""
        return self.send("GET", "/health").json

    def logged(self, request_id: str) -> Any:
        """The access log's line of a request, once it is there."""

        def line() -> Any:
            lines = map(json.loads, (self.process.folder / "access.log").read_text().splitlines())
            return next((each for each in lines if each["request_id"] == request_id), None)

        return self.process.until(line, "the line in the access log")


@contextmanager
def demo(folder: Path, **environ: str) -> Iterator[Demo]:
    """Run the gateway of gateway.yaml with these variables, and what else has a default."""
    running = Demo(folder, **environ)
    try:
        yield running
        assert running.process.end() == 0, running.process.said
    finally:
        running.process.kill()
