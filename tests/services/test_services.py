"""The demo services as users run them: uvicorn in a process of its own, over real sockets.

They must hold what the documentation and run_all.sh say of them; the tests know nothing of the gateway.
"""

import http.client
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from websockets.sync.client import connect

ROOT = Path(__file__).resolve().parents[2]
JSON = {"content-type": "application/json"}


class Service:
    """A running service: its process and its port on 127.0.0.1."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def connection(self) -> closing[http.client.HTTPConnection]:
        return closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10))

    def ask(self, method: str, path: str, body: str | None = None) -> tuple[int, object]:
        """Status and decoded JSON body of the answer."""
        with self.connection() as connection:
            connection.request(method, path, body, JSON if body is not None else {})
            response = connection.getresponse()
            return response.status, json.load(response)


@contextmanager
def running(module: str) -> Iterator[Service]:
    command = [sys.executable, "-m", "uvicorn", f"{module}:app", "--host", "127.0.0.1", "--port", "0"]
    command += ["--timeout-graceful-shutdown", "1", "--no-access-log"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = ""
            for line in process.stderr:
                said += line
                if match := re.search(r"running on http://127\.0\.0\.1:(\d+)", line):
                    yield Service(process, int(match[1]))
                    break
            else:
                pytest.fail(f"{module} did not start: {said}")
        finally:
            process.kill()


@pytest.fixture(scope="module", params=["a", "b"])
def service(request: pytest.FixtureRequest) -> Iterator[tuple[Service, str]]:
    with running(f"services.service_{request.param}.main") as started:
        yield started, f"service-{request.param}"


def test_health_names_the_service(service: tuple[Service, str]) -> None:
    server, name = service
    assert server.ask("GET", "/health") == (200, {"status": "healthy", "service": name})


def test_get_says_which_service_this_is(service: tuple[Service, str]) -> None:
    server, name = service
    assert server.ask("GET", "/some-path") == (200, {"message": f"This is {name}"})


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize("data", [{"a": {"b": [1, None, "ü"]}}, [1, 2], "text", 7, None])
def test_writes_answer_with_the_data_they_got(service: tuple[Service, str], method: str, data: object) -> None:
    server, name = service
    expected = {"message": f"{method} request to {name}", "data": data}
    assert server.ask(method, "/some-path", json.dumps(data)) == (200, expected)


def test_delete_answers_without_data(service: tuple[Service, str]) -> None:
    server, name = service
    assert server.ask("DELETE", "/some-path") == (200, {"message": f"DELETE request to {name}"})


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize("body", ["{", "", "{'a': 1}", "\x00"])
def test_a_body_that_is_not_json_is_the_clients_error(service: tuple[Service, str], method: str, body: str) -> None:
    status, _ = service[0].ask(method, "/some-path", body)
    assert status == 422


def test_headers_are_shown_as_they_arrived(service: tuple[Service, str]) -> None:
    with service[0].connection() as connection:
        connection.putrequest("GET", "/headers")
        connection.putheader("x-twice", "one")
        connection.putheader("x-twice", "two")
        connection.endheaders()
        headers = json.load(connection.getresponse())["headers"]
    assert [value for name, value in headers if name == "x-twice"] == ["one", "two"]


def test_events_end_after_count(service: tuple[Service, str]) -> None:
    server, name = service
    with server.connection() as connection:
        connection.request("GET", "/events?count=3&interval=0")
        response = connection.getresponse()
        events = response.read().decode().split("\n\n")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert events == [
        *(f'id: {n}\ndata: {{"service": "{name}", "number": {n}}}' for n in (1, 2, 3)),
        "",
    ]


def test_events_arrive_one_by_one(service: tuple[Service, str]) -> None:
    with service[0].connection() as connection:
        connection.request("GET", "/events?count=2&interval=10")
        # The second event is ten seconds away: this read returns only because the first was sent at once.
        assert connection.getresponse().readline() == b"id: 1\n"


@pytest.mark.parametrize("query", ["count=0", "count=1001", "interval=-1", "interval=11", "count=x"])
def test_events_are_bounded(service: tuple[Service, str], query: str) -> None:
    status, _ = service[0].ask("GET", f"/events?{query}")
    assert status == 422


def test_websocket_echoes_text_and_bytes(service: tuple[Service, str]) -> None:
    with connect(f"ws://127.0.0.1:{service[0].port}/ws", open_timeout=10) as websocket:
        for message in ("hello", "", b"\x00\xff", "x" * 70_000):
            websocket.send(message)
            assert websocket.recv(timeout=10) == message


def test_term_ends_a_service_that_is_streaming() -> None:
    with running("services.service_a.main") as server, server.connection() as connection:
        connection.request("GET", "/events?count=1000&interval=10")
        connection.getresponse().readline()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=10) is not None


@pytest.fixture(scope="module")
def items() -> Iterator[Service]:
    with running("services.items.main") as started:
        yield started


@pytest.mark.parametrize("number", [42, 0, -7])
def test_an_item_has_id_name_and_description(items: Service, number: int) -> None:
    expected = {
        "id": number,
        "name": f"Item {number}",
        "description": f"The description of item {number}",
    }
    assert items.ask("GET", f"/items/{number}") == (200, expected)


def test_an_item_id_must_be_a_number(items: Service) -> None:
    status, _ = items.ask("GET", "/items/first")
    assert status == 422
