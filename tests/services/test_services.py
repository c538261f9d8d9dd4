"""The demo services as users run them: uvicorn in a process of its own, over real sockets.

They must hold what the documentation and run_all.sh say of them; the tests know nothing of the gateway.
"""

import json
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest
from websockets.sync.client import connect

from tests.kit.demo import Service, uvicorn
from tests.kit.server_process import fetch, free_ports
from tests.kit.servers import Consul, consul_agent


def running(module: str, **options: str) -> AbstractContextManager[Service]:
    return uvicorn(f"{module}:app", **options)  # type: ignore[arg-type]


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


# Consul


@pytest.fixture(scope="module")
def consul() -> Iterator[Consul]:
    with consul_agent() as agent:
        yield agent


def instances(consul: Consul, name: str) -> list[tuple[str, int]]:
    """The healthy instances that Consul knows."""
    found = fetch(f"{consul.url}/v1/health/service/{name}?passing=true")
    return [(each["Service"]["Address"], each["Service"]["Port"]) for each in found]


def test_a_service_is_in_consul_while_it_runs(consul: Consul) -> None:
    (port,) = free_ports(1)
    environ = {"CONSUL_HTTP_ADDR": consul.url, "SERVICE_A_URL": f"http://127.0.0.1:{port}"}
    with uvicorn("services.service_a.main:app", port, **environ):
        consul.until(lambda: instances(consul, "service-a") == [("127.0.0.1", port)], "told of the service")
        (entry,) = fetch(f"{consul.url}/v1/catalog/service/service-a")
        fetch(f"{consul.url}/v1/agent/service/deregister/{entry['ServiceID']}", method="PUT")
        consul.until(lambda: instances(consul, "service-a"), "told of the service again", seconds=15)
    assert fetch(f"{consul.url}/v1/catalog/service/service-a") == []


def test_a_service_needs_no_consul_to_run() -> None:
    (port, nobody) = free_ports(2)
    environ = {"CONSUL_HTTP_ADDR": f"127.0.0.1:{nobody}", "SERVICE_B_URL": f"http://127.0.0.1:{port}"}
    with uvicorn("services.service_b.main:app", port, **environ) as server:
        assert server.ask("GET", "/health")[0] == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=10) is not None
