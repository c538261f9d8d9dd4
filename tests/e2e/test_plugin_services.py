"""What plugins count and publish, through real processes: whatever they give, the gateway's own numbers stay whole."""

import re

import pytest

from tests.kit.wire import RawSocket

CONFIG = """
workers: {workers}
routes: [{{name: all, match: {{path: "/{path}"}}, respond: {{status: 200}}{plugins}}}]
"""
PLUGINS = ', plugins: [{use: "./doing.py:Doing"}]'
DOING = """
from gatewright import Plugin
class Doing(Plugin):
    async def start(self):
        self.age = self.gateway.age("rates", source="bank")
    def on_request(self, exchange):
        exec(exchange.request.headers.get("x-do", ""), {"gateway": self.gateway, "age": self.age, "exchange": exchange})
"""


class Doer:
    """A gateway whose plugin does what a request says."""

    def __init__(self, run, folder, workers=1):
        (folder / "doing.py").write_text(DOING)
        self.workers = workers
        self.gateway = run(self.config()).ready()

    def config(self, path="{rest...}", plugins=PLUGINS):
        return CONFIG.format(workers=self.workers, path=path, plugins=plugins)

    def reload(self, *config, **more):
        self.gateway.write(self.config(*config, **more))
        status, answer = self.gateway.reload()
        assert status == 200, answer

    def do(self, what="", path="/", times=1):
        """Have it done in one worker; return the statuses."""
        request = f"GET {path} HTTP/1.1\r\nHost: test\r\nX-Do: {what}\r\n\r\n".encode()
        with RawSocket.connect(self.gateway.port) as client:
            client.send(request * times)
            return [client.read_answer().status for _ in range(times)]

    def numbers(self, pattern):
        """The values of the samples whose name and labels match, as /metrics has them now."""
        status, text = self.gateway.admin("GET", "/metrics")
        assert status == 200, text
        samples = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in samples if re.match(pattern, name)}


@pytest.fixture
def doer(run, tmp_path):
    return lambda **options: Doer(run, tmp_path, **options)


def test_what_is_no_text_and_no_time_costs_no_number_of_anything_else(doer):
    gateway = doer(workers=2)
    before = gateway.gateway.workers()
    good = {
        'gateway.count("orders", kind=7)': 'kind="7"',
        'gateway.count("orders", kind=None)': 'kind="None"',
        'gateway.count("orders", kind=["a"])': "kind=\"['a']\"",
        'gateway.counter("orders", kind="a\\udc80")()': r'kind="a\\udc80"',
    }
    bad = [
        "gateway.count(7)",
        'gateway.count("my orders")',
        'gateway.count("orders", __name__="a")',
        'gateway.count("orders", **{"my kind": "a"})',
        "gateway.age(None)",
        'age.at = "now"',
        "age.at = object()",
        'age.at = float("nan")',
        'gateway.publish(7, "a")',
        'gateway.publish("a", object())',
        r'gateway.publish("\udc80", "a")',
    ]
    spoilt = [
        "exchange.route = 7",
        r"exchange.service = '\udc80'",
        'exchange.reject(400, "a", "b"); exchange.route = 7',
    ]
    assert [gateway.do(what) for what in [*good, *spoilt]] == [[200]] * (len(good) + len(spoilt))
    assert [gateway.do(what) for what in bad] == [[500]] * len(bad)
    assert gateway.numbers("gateway_orders_total") == dict.fromkeys(
        (f"gateway_orders_total{{{label}}}" for label in good.values()), 1
    )
    assert sum(gateway.numbers("gateway_requests_total").values()) == len(good) + len(spoilt) + len(bad)
    assert gateway.numbers("gateway_rates_age") == {}
    assert gateway.gateway.workers() == before


def test_a_metric_of_the_gateway_is_not_a_plugins(doer):
    gateway = doer()
    gateway.do('gateway.count("requests", kind="a"); gateway.age("discovery").at = 1.0; gateway.count("orders")')
    for _ in range(2):
        assert gateway.numbers("gateway_(requests|orders)_total") == {
            "gateway_orders_total": 1,
            'gateway_requests_total{code="200",method="GET",route="all",service=""}': 1,
        }
    (line,) = gateway.gateway.wait_for("left out")
    assert "gateway_requests" in line
    assert sum("left out" in line for line in gateway.gateway.said) == 1


def test_a_report_that_fails_is_not_the_last(doer):
    gateway = doer()
    assert gateway.do("exchange.upstream_seconds = float('nan')", "/nan") == [200]
    gateway.gateway.wait_for("a report failed|a message could not be handled")
    assert gateway.do("gateway.count('orders')") == [200]
    gateway.gateway.until(lambda: gateway.numbers("gateway_orders_total") == {"gateway_orders_total": 1})


def test_an_age_outlives_reloads_and_ends_with_its_plugin(doer):
    gateway = doer()
    name = 'gateway_rates_age_seconds{source="bank"}'
    gateway.do("age.at = gateway.clock.now() - 1000")
    for number in range(3):
        gateway.reload(f"{number}/{{rest...}}")
        assert 1000 <= gateway.numbers(name.partition("{")[0])[name] < 1060
    gateway.do("gateway.age('rates', source='bank').at = gateway.clock.now()", "/2/")
    assert gateway.numbers("gateway_rates")[name] < 60
    gateway.reload("{rest...}", plugins="")
    gateway.gateway.until(lambda: gateway.numbers("gateway_rates") == {}, "its end")


def test_ages_are_bounded_and_that_is_told(doer):
    gateway = doer()
    gateway.do("for i in range(300): gateway.age('made', up=i).at = gateway.clock.now()")
    assert len(gateway.numbers("gateway_made_age_seconds")) == 199
    assert len(gateway.gateway.wait_for("plugins have 200 ages")) == 1


def test_publishing_more_than_the_channel_takes_is_an_error_of_the_plugin_alone(doer):
    gateway = doer(workers=2)
    before = gateway.gateway.workers()
    assert gateway.do("for _ in range(3): gateway.publish('a', bytes(60 << 20))") == [500]
    gateway.gateway.wait_for("has no room")
    assert gateway.do("gateway.publish('a', 'b')") in ([200], [500])  # the first may be on its way still
    gateway.gateway.until(lambda: sum(gateway.numbers("gateway_requests_total").values()) == 2)
    assert gateway.gateway.workers() == before


def test_a_path_that_changes_is_another_series_of_the_conventions_histogram(doer):
    gateway = doer()

    def counts():
        found = gateway.numbers("http_server_request_duration_seconds_count").items()
        return {tuple(re.findall('gateway_route="(.*?)".*http_route="(.*?)"', name)[0]): count for name, count in found}

    gateway.do(path="/p", times=3)
    assert counts() == {("all", "/{rest...}"): 3}
    gateway.reload("new")
    gateway.do(path="/new")
    assert counts() == {("all", "/{rest...}"): 3, ("all", "/new"): 1}
    gateway.gateway.write(CONFIG.replace("name: all", "name: other").format(workers=1, path="new", plugins=""))
    assert gateway.gateway.reload()[0] == 200
    gateway.do(path="/new")
    expected = {("all", "/{rest...}"): 3, ("all", "/new"): 1, ("other", "/new"): 1}
    assert counts() == expected
