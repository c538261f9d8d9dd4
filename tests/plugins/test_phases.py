"""A user's plugin in every phase: what it sees, what it may change, in which order, and what its failures do."""

import json
import logging

import pytest

from tests.kit.answers import reason, reply, why
from tests.kit.inside import NOTHING, Finished, at_rest
from tests.kit.wire import RawSocket, answer_all, get

HEAD = """
import asyncio
from gatewright import Consumer, Exchange, Plugin, PluginConfig, Response
from pydantic import Field
"""
SEEN = """
class Seen(PluginConfig):
    mark: str = "x"

class Order(Plugin[Seen], name="order"):
    def note(self, exchange, phase):
        order = exchange.state.setdefault("order", [])
        order.append(f"{phase} {self.config.mark}")
        return ", ".join(order)
    def on_request(self, exchange):
        self.note(exchange, "request")
    def on_upstream_request(self, exchange, attempt):
        attempt.headers.set("X-Order", self.note(exchange, f"attempt {attempt.number}"))
    def on_response(self, exchange, response):
        response.headers.set("X-Order", self.note(exchange, "response"))
    def on_done(self, exchange):
        self.note(exchange, "done")

class AsyncOrder(Order, name="async_order"):
    async def on_request(self, exchange):
        await asyncio.sleep(0)
        Order.on_request(self, exchange)
    async def on_upstream_request(self, exchange, attempt):
        await asyncio.sleep(0)
        Order.on_upstream_request(self, exchange, attempt)
    async def on_response(self, exchange, response):
        await asyncio.sleep(0)
        Order.on_response(self, exchange, response)
"""
GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.fixture
def plugged(gateway, target):
    """Start a gateway with plugins of a file beside its configuration: (running, target)."""

    def start(
        code, plugins="", script=None, service="", service_plugins="", route_plugins="", upstream=None, files=None
    ):
        upstream = upstream or target(script)
        lists = {"plugins": plugins, "service": service_plugins, "route": route_plugins}
        text = {key: f"plugins: [{value}]" if value else "" for key, value in lists.items()}
        config = (
            f'services:\n  s:\n    targets: ["{upstream.url}"]\n    {service}\n    {text["service"]}\n'
            f"routes:\n  - name: all\n    match: {{path: '/{{rest...}}'}}\n    service: s\n    {text['route']}\n"
            f"{text['plugins']}\n"
        )
        return gateway(config, files={"mine.py": HEAD + code, **(files or {})}), upstream

    return start


# Finding it


def test_by_file(plugged):
    running, _ = plugged(SEEN, "{use: './mine.py:Order', mark: file}")
    assert get(running.port).get("x-order") == "request file, attempt 1 file, response file"


def test_by_import_path_from_the_folder_of_the_configuration(plugged, monkeypatch):
    import sys

    monkeypatch.setattr(sys, "path", [*sys.path])
    code = {"tenant_plugins_of_a_test.py": HEAD + SEEN}
    running, _ = plugged("", "{use: 'tenant_plugins_of_a_test:Order', mark: module}", files=code)
    assert get(running.port).get("x-order") == "request module, attempt 1 module, response module"


# Order and scope


@pytest.mark.parametrize("name", ["Order", "AsyncOrder"])
def test_global_then_service_then_route_in_every_phase(plugged, name):
    """Three plugins; the same class under three import paths, since the same one would replace itself."""
    code = SEEN + f"\nA = {name}\nclass B({name}, name='b'): pass\nclass C({name}, name='c'): pass\n"
    running, upstream = plugged(
        code,
        plugins="{use: './mine.py:A', mark: global}",
        service_plugins="{use: './mine.py:B', mark: service}",
        route_plugins="{use: './mine.py:C', mark: route}",
    )
    finished = Finished(running)
    places = ("global", "service", "route")
    expected = [f"{phase} {place}" for phase in ("request", "attempt 1", "response") for place in places]
    assert get(running.port).get("x-order").split(", ") == expected
    assert f"X-Order: {', '.join(expected[:6])}".encode() in upstream.received
    assert finished.next().state["order"] == expected + [f"done {place}" for place in places]


def test_the_same_plugin_nearer_to_the_route_takes_the_place_of_the_farther_one(plugged):
    code = SEEN + "\nclass Other(Order, name='other'): pass\n"
    running, _ = plugged(
        code,
        plugins="{use: './mine.py:Order', mark: far}, {use: './mine.py:Other', mark: other}",
        route_plugins="{use: './mine.py:Order', mark: near}",
    )
    assert get(running.port).get("x-order").split(", ")[:2] == ["request near", "request other"]


def test_the_same_plugin_twice_in_a_list_runs_twice(plugged):
    running, _ = plugged(SEEN, "{use: './mine.py:Order', mark: a}, {use: './mine.py:Order', mark: b}")
    assert get(running.port).get("x-order").split(", ")[:2] == ["request a", "request b"]


def test_each_attempt_is_seen_and_starts_from_the_clients_headers(plugged):
    replies = iter([reply(503), reply(200, b"ok")])

    def script(session):
        while True:
            session.read_request()
            session.send(next(replies))

    code = """
class Count(Plugin[PluginConfig]):
    def on_upstream_request(self, exchange, attempt):
        attempt.headers.add("X-Attempt", str(attempt.number))
        assert ":" in attempt.target
"""
    running, upstream = plugged(code, "{use: './mine.py:Count'}", script)
    assert get(running.port).status == 200
    heads = upstream.received.split(b"\r\n\r\n")[:2]
    assert [head.count(b"X-Attempt") for head in heads] == [1, 1]
    assert b"X-Attempt: 2" in heads[1]


# Answers


REJECT = """
class Reject(Plugin[PluginConfig]):
    def on_request(self, exchange):
        if exchange.request.headers.get("x-tenant") is None:
            return exchange.reject(403, "unknown_tenant", "This tenant is not known here", {"X-Hint": "blue"})
class AsyncReject(Reject, name="async_reject"):
    async def on_request(self, exchange):
        await asyncio.sleep(0)
        return Reject.on_request(self, exchange)
"""


@pytest.mark.parametrize("name", ["Reject", "AsyncReject"])
def test_reject_answers_and_asks_no_target(plugged, name):
    running, upstream = plugged(REJECT + SEEN, f"{{use: './mine.py:{name}'}}, {{use: './mine.py:Order'}}")
    answer = get(running.port)
    assert why(answer) == (403, "unknown_tenant")
    problem = json.loads(answer.body)
    assert problem["detail"] == "This tenant is not known here"
    assert (problem["title"], problem["status"]) == ("Unknown tenant", 403)
    assert problem["request_id"] == answer.get("x-request-id")
    assert answer.get("x-hint") == "blue"
    assert upstream.sessions == []
    line = running.access_log()[0]
    assert (line["reason"], line["status"], line["attempts"]) == ("unknown_tenant", 403, 0)
    assert get(running.port, "/", "X-Tenant: red\r\n").status == 200


def test_later_request_hooks_do_not_run_but_response_hooks_do(plugged):
    running, _ = plugged(REJECT + SEEN, "{use: './mine.py:Reject'}, {use: './mine.py:Order'}")
    assert get(running.port).get("x-order") == "response x"


def test_a_plugin_may_answer_anything(plugged):
    code = """
class Teapot(Plugin[PluginConfig]):
    def on_request(self, exchange):
        return Response(418, {"Content-Type": "text/plain", "X-Pot": "short"}, "stout \\u2615")
"""
    running, _ = plugged(code, "{use: './mine.py:Teapot'}")
    answer = get(running.port)
    assert (answer.status, answer.body.decode(), answer.get("x-pot")) == (418, "stout \u2615", "short")
    with RawSocket.connect(running.port) as client:
        client.send(GET.replace(b"GET", b"HEAD"))
        assert client.read_answer("HEAD").get("content-length") == str(len(answer.body))
        client.send(GET)
        assert client.read_answer().body == answer.body


def test_on_response_sees_and_edits_the_targets_answer(plugged):
    code = """
class Edit(Plugin[PluginConfig]):
    def on_response(self, exchange, response):
        assert exchange.response is response and response.from_target
        response.status = 203
        response.headers.set("X-Was", response.headers.get("content-type") or "none")
"""
    running, _ = plugged(code, "{use: './mine.py:Edit'}", answer_all(reply(200, b"hello", "Content-Type: text/x")))
    for _ in range(2):  # heads are remembered by their bytes: an edit must not stay in them
        answer = get(running.port)
        assert (answer.status, answer.body, answer.all("x-was")) == (203, b"hello", ["text/x"])


def test_on_response_sees_the_gateways_own_answers_too(plugged):
    running, upstream = plugged(SEEN, "{use: './mine.py:Order'}", service="retry: {attempts: 0}")
    upstream.script = lambda session: session.read_request()
    answer = get(running.port)
    assert why(answer) == (502, "upstream_reset")
    assert answer.get("x-order").endswith("response x")


def test_consumer_state_and_params_are_shared_and_logged(plugged):
    code = """
class Who(Plugin[PluginConfig]):
    def on_request(self, exchange):
        exchange.consumer = Consumer("ann", frozenset({"staff"}), {"sub": "1"})
        exchange.state["tier"] = "gold"
class Tell(Plugin[PluginConfig]):
    def on_response(self, exchange, response):
        who = exchange.consumer
        assert "staff" in who.groups and who.claims == {"sub": "1"}
        names = [exchange.route, exchange.service, exchange.client_ip]
        response.headers.set("X-Told", " ".join([who.name, exchange.state["tier"], exchange.params["rest"], *names]))
"""
    running, _ = plugged(code, "{use: './mine.py:Who'}, {use: './mine.py:Tell'}")
    assert get(running.port, "/a/b").get("x-told") == "ann gold a/b all s 127.0.0.1"
    assert running.access_log()[0]["consumer"] == "ann"


# A plugin that fails

PHASES = {
    "on_request": "def on_request(self, exchange):",
    "async on_request": "async def on_request(self, exchange):",
    "on_upstream_request": "def on_upstream_request(self, exchange, attempt):",
    "async on_upstream_request": "async def on_upstream_request(self, exchange, attempt):",
    "around": "async def around(self, exchange, call):",
    "on_response": "def on_response(self, exchange, response):",
    "async on_response": "async def on_response(self, exchange, response):",
    "on_request_chunk": "def on_request_chunk(self, exchange, chunk):",
    "on_response_chunk": "def on_response_chunk(self, exchange, chunk):",
    "wants_body": 'body = "buffer"\n    def wants_body(self, exchange):',
    "wants_response_body": 'response_body = "buffer"\n    def wants_response_body(self, exchange, response):',
}
POST = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\ndata"


@pytest.mark.parametrize("error", ["KeyError", "SystemExit", "asyncio.CancelledError"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_plugin_that_raises_costs_one_exchange(plugged, caplog, phase, error):
    code = f"""
class Broken(Plugin[PluginConfig]):
    {PHASES[phase]}
        if "bad" in exchange.request.path:
            raise {error}("a-secret-detail")
        {"return await call()" if phase == "around" else "return chunk" if "chunk" in phase else "return None"}
"""
    running, _ = plugged(code, "{use: './mine.py:Broken'}")
    with caplog.at_level(logging.ERROR), RawSocket.connect(running.port) as client:
        client.send(POST.replace(b"/ ", b"/bad "))
        answer = client.read_answer()
        assert why(answer) == (500, "plugin_error")
        assert b"a-secret-detail" not in answer.body
        client.send(POST)
        assert client.read_answer().body == b"ok"
    assert f"{error}: " in caplog.text.replace("asyncio.exceptions", "asyncio")
    assert "a-secret-detail" in caplog.text
    assert "Traceback" in caplog.text
    lines = running.access_log()
    assert [line["status"] for line in lines] == [500, 200]
    assert f"broken: {error.rpartition('.')[2]}" in lines[0]["cause"]
    assert at_rest(running) == NOTHING


@pytest.mark.parametrize("whose", ["asyncio.ensure_future(asyncio.Event().wait())", "asyncio.current_task()"])
def test_a_hook_that_is_cancelled_by_its_own_fault_has_failed(plugged, caplog, whose):
    code = f"""
class Broken(Plugin[PluginConfig]):
    async def on_request(self, exchange):
        task = {whose}
        task.cancel()
        await (asyncio.sleep(0) if task is asyncio.current_task() else task)
"""
    running, _ = plugged(code, "{use: './mine.py:Broken'}")
    with caplog.at_level(logging.ERROR):
        assert why(get(running.port)) == (500, "plugin_error")
    assert "CancelledError" in caplog.text
    assert at_rest(running) == NOTHING


@pytest.mark.parametrize("error", ["KeyError", "SystemExit"])
def test_a_done_hook_that_raises_is_logged_and_stops_no_other(plugged, caplog, error):
    code = f"""
class Broken(Plugin[PluginConfig]):
    def on_done(self, exchange):
        raise {error}("done")
"""
    running, _ = plugged(code + SEEN, "{use: './mine.py:Broken'}, {use: './mine.py:Order'}")
    finished = Finished(running)
    with caplog.at_level(logging.ERROR):
        assert get(running.port).status == 200
        assert finished.next().state["order"][-1] == "done x"
    assert f"{error}: " in caplog.text
    assert len(running.access_log()) == 1


@pytest.mark.parametrize(
    ("hook", "result"),
    [("def on_request(self, exchange):", "'text'"), ("async def around(self, exchange, call):", "None")],
)
def test_a_hook_that_returns_what_is_no_response_is_an_error(plugged, hook, result):
    code = f"class Wrong(Plugin[PluginConfig]):\n    {hook}\n        return {result}\n"
    running, _ = plugged(code, "{use: './mine.py:Wrong'}")
    assert why(get(running.port)) == (500, "plugin_error")
    assert at_rest(running) == NOTHING


def test_text_that_no_encoder_takes_costs_a_line_of_the_log_and_no_connection(plugged, caplog):
    code = """
class Odd(Plugin[PluginConfig]):
    def on_request(self, exchange):
        if exchange.request.path == "/odd":
            exchange.consumer = Consumer("\\ud800")
"""
    running, _ = plugged(code, "{use: './mine.py:Odd'}")
    with RawSocket.connect(running.port) as client:
        for path in (b"/odd", b"/"):
            client.send(GET.replace(b"/ ", path + b" ", 1))
            assert client.read_answer().body == b"ok"
    assert [line["path"] for line in running.access_log()] == ["/"]
    assert at_rest(running) == NOTHING


# Waiting plugins


def test_an_async_hook_may_wait_and_use_timeouts(plugged):
    code = """
class Slow(Plugin[PluginConfig]):
    async def on_request(self, exchange):
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            exchange.request.headers.set("X-Waited", "yes")
"""
    running, upstream = plugged(code, "{use: './mine.py:Slow'}")
    assert get(running.port).status == 200
    assert b"X-Waited: yes" in upstream.received


@pytest.mark.parametrize("phase", ["async on_request", "async on_upstream_request", "around", "async on_response"])
def test_a_client_that_goes_cancels_a_hook_that_waits(plugged, phase):
    code = f"""
class Stuck(Plugin[PluginConfig]):
    {PHASES[phase]}
        exchange.state["entered"] = True
        exchange.downstream.transport.write(b"HTTP/1.1 100 Continue\\r\\n\\r\\n")
        try:
            await asyncio.Event().wait()
        finally:
            exchange.state["cleaned"] = True
"""
    running, _ = plugged(code, "{use: './mine.py:Stuck'}")
    finished = Finished(running)
    with RawSocket.connect(running.port) as client:
        client.send(GET)
        assert client.read_answer().status == 100  # the hook is there
    exchange = finished.next()
    assert (exchange.reason, exchange.state["cleaned"]) == ("client_gone", True)
    assert running.access_log()[0]["status"] == 499
    assert at_rest(running) == NOTHING
    assert reason(get(running.port, "/..")) == "invalid_path"


def test_start_and_stop_surround_the_gateways_life(plugged, tmp_path):
    note = tmp_path / "note"
    code = f"""
def write(text):
    with open({str(note)!r}, "a") as file:
        file.write(text)
class Life(Plugin[PluginConfig]):
    async def start(self):
        write("start ")
    async def stop(self):
        write("stop ")
"""
    running, _ = plugged(code, "{use: './mine.py:Life'}")
    assert note.read_text() == "start "
    running.call(running.gateway.stop_pipeline)
    assert note.read_text() == "start stop "
