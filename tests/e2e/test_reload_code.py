"""Users' code while a gateway reloads: what is no good changes nothing, what was thrown away is gone, and an
application runs on until its code changes."""

import sys

import pytest

from gatewright.app import ConfigurationError, StartError
from tests.kit.answers import services
from tests.kit.inside import until
from tests.kit.reloading import PLUGIN, REQUEST, USE, all_ended, open_files, saying
from tests.kit.wire import RawSocket, get


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def (", "invalid syntax"),
        ("raise SystemExit(3)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("", "has no Marks"),
        ("import nowhere", "No module named 'nowhere'"),
        (PLUGIN.format(mark=2) + "    def __init__(self, config):\n        raise SystemExit", "SystemExit"),
    ],
)
def test_users_code_that_is_no_good_changes_nothing(gateway, code, says):
    running = gateway(saying("one", USE), files={"marks.py": PLUGIN.format(mark=1)})
    modules = dict(sys.modules)
    (running.folder / "marks.py").write_text(code)
    with pytest.raises(ConfigurationError, match=f"gateway.yaml:[0-9:]+ routes.0..plugins.0.: .*{says}"):
        running.reload(saying("two", USE))
    assert running.gateway.tried == {(running.folder / "marks.py").resolve()}
    assert {name: sys.modules[name] for name in modules} == modules
    assert {name for name in sys.modules if "gatewright_plugin" in name} <= modules.keys()
    answer = get(running.port)
    assert (answer.body, answer.get("x-mark")) == (b"one", "1")
    (running.folder / "marks.py").write_text(PLUGIN.format(mark=3))
    running.reload(saying("three", USE))
    answer = get(running.port)
    assert (answer.body, answer.get("x-mark")) == (b"three", "3")


NOISY = """
from gatewright import Plugin
class {name}(Plugin):
    async def start(self):
        with open("{file}", "a") as file:
            file.write("{name} started\\n")
        {then}
    async def stop(self):
        with open("{file}", "a") as file:
            file.write("{name} stopped\\n")
"""


@pytest.mark.parametrize("failure", ["raise ValueError('no')", "raise SystemExit('no')"])
def test_a_plugin_that_does_not_start_leaves_nothing_behind(gateway, target, failure):
    running = gateway(saying("one"))
    told = running.folder / "told"
    (running.folder / "noisy.py").write_text(
        NOISY.format(name="A", file=told, then="pass")
        + NOISY.format(name="B", file=told, then=failure)
        + NOISY.format(name="C", file=told, then="pass")
    )
    files = open_files()
    uses = "[" + ", ".join(f'{{use: "./noisy.py:{name}"}}' for name in "ABC") + "]"
    listeners = "listeners: [{bind: '127.0.0.1:0'}, {bind: 'localhost:0'}]\naccess_log: {destination: %s}\n"
    with pytest.raises(StartError, match="no"):
        running.reload(listeners % (running.folder / "other.log") + saying("two", uses))
    assert told.read_text().split("\n") == ["A started", "B started", "B stopped", "A stopped", ""]
    assert get(running.port).body == b"one"
    assert len(running.listeners) == 1
    until(running, lambda: open_files() == files)
    assert not [name for name in sys.modules if name.endswith("_noisy")]


MEETING = """
import asyncio
from gatewright import Plugin
everybody = []
class Meeting(Plugin):
    async def stop(self):
        everybody.append(asyncio.Event())
        if len(everybody) == 3:
            for each in everybody:
                each.set()
        await everybody[-1].wait()
"""


def test_configurations_end_beside_each_other(gateway):
    """Each plugin's `stop` waits here until that of two others has begun."""
    uses = '[{use: "./meeting.py:Meeting"}]'
    running = gateway(saying("0", uses), files={"meeting.py": MEETING})
    running.reload(saying("1", uses))
    running.reload(saying("2", uses))
    running.reload(saying("3"))
    until(running, lambda: all_ended(running))


HANGS = """
import asyncio
from gatewright import Plugin
told = []
class Quick(Plugin):
    async def stop(self):
        told.append("quick")
class Hangs(Plugin):
    async def stop(self):
        told.append("hangs")
        await asyncio.Event().wait()
class Clings(Plugin):
    async def stop(self):
        told.append("clings")
        try:
            await asyncio.Event().wait()
        finally:
            told.append("cancelled")
            await asyncio.Event().wait()
"""


def test_what_does_not_stop_holds_up_the_others_for_a_while_and_no_more(gateway, monkeypatch, caplog):
    monkeypatch.setattr("gatewright.control.generation.STOP_SECONDS", 0.4)
    monkeypatch.setattr("gatewright.control.generation._CANCELLED_SECONDS", 0.1)
    uses = "[" + ", ".join(f'{{use: "./hangs.py:{name}"}}' for name in ("Quick", "Hangs", "Clings", "Quick")) + "]"
    running = gateway(saying("one", uses), files={"hangs.py": HANGS})
    told = sys.modules[type(running.gateway._generations.present.plugins[0]).__module__].told
    running.reload(saying("two"))
    until(running, lambda: all_ended(running))
    assert told == ["quick", "clings", "hangs", "quick", "cancelled"]
    assert "plugin hangs did not stop within 0.4 s" in caplog.text


def test_what_was_prepared_can_be_thrown_away(gateway):
    running = gateway(saying("one", USE), files={"marks.py": PLUGIN.format(mark=1)})
    modules = dict(sys.modules)
    (running.folder / "marks.py").write_text(PLUGIN.format(mark=2))
    prepared = running.prepare(saying("two", USE))
    assert prepared.files == {(running.folder / "marks.py").resolve()}
    running.call(running.gateway.discard, prepared)
    assert dict(sys.modules) == modules
    answer = get(running.port)
    assert (answer.body, answer.get("x-mark")) == (b"one", "1")
    running.reload(saying("three", USE))
    assert get(running.port).get("x-mark") == "2"


APP = """
import helper{n}
log = []
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            log.append(message["type"])
            await send({{"type": message["type"] + ".complete"}})
            if message["type"] == "lifespan.shutdown":
                return
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": helper{n}.SAYS + str(id(log)).encode()}})
"""


def test_an_application_runs_on_until_its_code_changes(gateway):
    files = {"app1.py": APP.format(n=1), "helper1.py": "SAYS = b'a'", "aside.py": ""}
    text = services({"s": []}).replace("targets: []", "app: app1:app")
    running = gateway(text, files=files)
    first = get(running.port).body
    running.reload(text + "limits: {body: 3MiB}\n")
    running.reload(text.replace("app1:app", "app1:app\n    max_in_flight: 5"))
    log = sys.modules["app1"].log
    assert get(running.port).body == first
    assert log == ["lifespan.startup"], "the same application, started once, also in a service that has changed"
    assert {path.name for path in running.gateway.files} >= {"app1.py", "helper1.py"}
    (running.folder / "helper1.py").write_text("SAYS = b'b'")
    running.reload(text)
    second = get(running.port).body
    assert (second[:1], second != first) == (b"b", True)
    until(running, lambda: log == ["lifespan.startup", "lifespan.shutdown"])
    assert sys.modules["app1"].log == ["lifespan.startup"]


def test_an_application_ends_after_the_last_exchange_with_it(gateway):
    """Also when the exchange began on an earlier configuration than the last one that has the application."""
    slow = APP.format(n=2).replace(
        '"body": helper2',
        '"more_body": True, "body": b""})\n    await go.wait()\n    await send({"type": "http.response.body", "body": helper2',
    )
    slow = slow.replace("import helper2", "import asyncio, helper2\ngo = asyncio.Event()")
    text = services({"s": []}).replace("targets: []", "app: app2:app")
    running = gateway(text, files={"app2.py": slow, "helper2.py": "SAYS = b'a'"})
    app = sys.modules["app2"]
    with RawSocket.connect(running.port) as client:
        client.send(REQUEST)
        client.read_until(b"\r\n\r\n")
        running.reload(text + "limits: {body: 3MiB}\n")
        running.reload(saying("hello"))
        until(running, lambda: len(running.gateway._generations.earlier) == 1)
        assert app.log == ["lifespan.startup"]
        running.call(app.go.set)
        assert client.read_until(b"0\r\n\r\n")
    until(running, lambda: app.log == ["lifespan.startup", "lifespan.shutdown"])


HANDLER = (
    APP
    + """
class Handler:
    async def handle(self, scope, receive, send):
        await app(scope, receive, send)
handler = Handler()
"""
)


@pytest.mark.parametrize("name", ["app3:app", "app4:handler.handle"])
def test_an_application_has_one_life_however_many_services_come_and_go_with_it(gateway, name):
    module = name.partition(":")[0]
    files = {f"{module}.py": HANDLER.format(n=module[-1]), f"helper{module[-1]}.py": "SAYS = b'a'"}
    running = gateway(using(name, "a"), files=files)
    bad = 'plugins: [{use: "./bad.py:Bad"}]\n'
    (running.folder / "bad.py").write_text(NOISY.format(name="Bad", file="/dev/null", then="raise OSError('no disk')"))
    log = sys.modules[module].log
    first = get(running.port).body
    with pytest.raises(StartError, match="no disk"):
        running.reload(using(name, "renamed") + bad)
    running.call(running.gateway.discard, running.prepare(using(name, "b", "c")))
    for services_now in (("renamed",), ("b", "c"), ("c",)):
        running.reload(using(name, *services_now))
        until(running, lambda: all_ended(running))
        assert (get(running.port).body, log) == (first, ["lifespan.startup"])
    running.reload(saying("hello"))
    until(running, lambda: log == ["lifespan.startup", "lifespan.shutdown"])


def using(name, *services):
    """A configuration that has an application in these services."""
    all_of_them = "".join(f"  {service}: {{app: '{name}'}}\n" for service in services)
    return f"services:\n{all_of_them}routes: [{{name: all, match: {{path: '/{{rest...}}'}}, service: {services[0]}}}]\n"


def test_an_application_that_comes_back_while_its_last_exchange_goes_on_runs_on(gateway):
    slow = APP.format(n=5).replace(
        '"body": helper5',
        '"more_body": True, "body": b""})\n    await go.wait()\n    await send({"type": "http.response.body", "body": helper5',
    )
    slow = slow.replace("import helper5", "import asyncio, helper5\ngo = asyncio.Event()")
    text = services({"s": []}).replace("targets: []", "app: app5:app")
    running = gateway(text, files={"app5.py": slow, "helper5.py": "SAYS = b'a'"})
    app = sys.modules["app5"]
    with RawSocket.connect(running.port) as client:
        client.send(REQUEST)
        client.read_until(b"\r\n\r\n")
        running.reload(saying("hello"))
        running.reload(text)
        running.call(app.go.set)
        assert client.read_until(b"0\r\n\r\n")
    until(running, lambda: all_ended(running))
    assert (get(running.port).status, app.log) == (200, ["lifespan.startup"])


def test_an_application_whose_start_exits_is_an_error(gateway):
    running = gateway(
        saying("one"), files={"exits.py": "async def app(scope, receive, send):\n    raise SystemExit(3)\n"}
    )
    with pytest.raises(StartError, match="SystemExit"):
        running.reload(services({"s": []}).replace("targets: []", "app: exits:app"))
    (running.folder / "broken.py").write_text("import aside\n1 / 0")
    (running.folder / "aside.py").write_text("")
    with pytest.raises(ConfigurationError, match=r"services.s.app: broken cannot be loaded: ZeroDivisionError"):
        running.reload(services({"s": []}).replace("targets: []", "app: broken:app"))
    assert {file.name for file in running.gateway.tried} >= {"broken.py", "aside.py"}
    with pytest.raises(ConfigurationError, match=r"services.s.app: nowhere cannot be loaded"):
        running.reload(services({"s": []}).replace("targets: []", "app: nowhere:app"))
    assert get(running.port).body == b"one"
