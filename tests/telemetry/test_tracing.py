"""Which trace an exchange is part of, whether it is recorded, and what is noted of it."""

import ipaddress
from types import SimpleNamespace

import pytest

from gatewright.core.errors import Reason, Retry, UpstreamError
from gatewright.core.exchange import Exchange
from gatewright.core.headers import Headers
from gatewright.core.messages import Request
from gatewright.core.peer import Peer
from gatewright.telemetry.tracing import Parents, Tracer

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRUSTED = (ipaddress.ip_network("10.0.0.0/8"),)
TARGET = SimpleNamespace(host="127.0.0.1", port=8001, url="http://127.0.0.1:8001")


def exchange(*fields, address="192.0.2.1", trusted=(), path="/x", query=None):
    request = Request("GET", path, query, 1, b"test", Headers.of(fields))
    return Exchange(request, Peer(address, 1, 2, "http", trusted), None, 5.0)


class Times:
    """A clock that goes on by a second each time it is looked at."""

    now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def tracer(sample=1.0, **options):
    rows = []
    made = Tracer(lambda *row: rows.append(row), Times(), sample, **options)
    made.rows = rows
    return made


def begun(*fields, sample=1.0, **options):
    made = tracer(sample, **options)
    each = exchange(*fields)
    each.trace = made.begin(each)
    return each


def written(each):
    return dict(line.split(": ") for line in each.trace.fields().removesuffix("\r\n").split("\r\n"))


def test_a_new_trace_has_the_id_of_its_request():
    each = begun()
    assert (each.trace_id, len(each.span_id), each.trace.recording) == (each.id, 16, True)
    assert each.trace.parent_id == ""


def test_an_id_of_a_trusted_proxy_may_have_any_form():
    made, each = tracer(), exchange(("X-Request-ID", "order-7"), address="10.0.0.1", trusted=TRUSTED)
    each.trace = made.begin(each)
    assert (each.id, len(each.trace_id)) == ("order-7", 32)


def test_a_parent_is_continued():
    each = begun(("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", "a=1"), sample=0.0)
    assert (each.trace_id, each.trace.parent_id, each.trace.recording) == (TRACE, SPAN, True)
    assert each.span_id not in (SPAN, TRACE[:16])
    assert written(each) == {"traceparent": f"00-{TRACE}-{each.span_id}-01", "tracestate": "a=1"}


def test_a_parent_that_is_not_sampled_stays_so_and_its_context_goes_on():
    each = begun(("traceparent", f"00-{TRACE}-{SPAN}-00"), ("tracestate", "a=1"))
    assert (each.trace_id, each.trace.recording) == (TRACE, False)
    assert written(each) == {"traceparent": f"00-{TRACE}-{each.span_id}-00", "tracestate": "a=1"}
    assert each.span_id != SPAN


@pytest.mark.parametrize(("flags", "told"), [("02", "02"), ("03", "03"), ("ff", "03"), ("04", "00")])
def test_of_the_flags_those_we_know_go_on(flags, told):
    assert written(begun(("traceparent", f"00-{TRACE}-{SPAN}-{flags}")))["traceparent"].endswith(f"-{told}")


@pytest.mark.parametrize(("value", "recording"), [("0", False), ("1", True), ("d", True)])
def test_b3_may_bring_the_decision_alone(value, recording):
    each = begun(("b3", value), sample=0.0 if recording else 1.0)
    assert (each.trace_id, each.trace.recording) == (each.id, recording)
    assert written(each)["traceparent"].endswith(f"-0{int(recording)}")


@pytest.mark.parametrize("sample", [0.0, 1.0])
def test_b3_may_leave_the_decision_open(sample):
    each = begun(("b3", f"{TRACE}-{SPAN}"), sample=sample)
    assert (each.trace_id, each.trace.recording) == (TRACE, bool(sample))


@pytest.mark.parametrize("sample", [0.0, 0.01, 0.25, 0.5, 1.0])
def test_the_share_of_new_traces(sample):
    made = tracer(sample)
    count = sum(made.begin(exchange()).recording for _ in range(20_000))
    assert abs(count / 20_000 - sample) <= 5 * (sample * (1 - sample) / 20_000) ** 0.5


def test_the_decision_hangs_on_the_trace_alone():
    made, low, high = tracer(0.5), "f" * 18 + "7" + "f" * 13, "0" * 18 + "8" + "0" * 13
    assert not made.begin(exchange(("b3", f"{low}-{SPAN}"))).recording
    assert made.begin(exchange(("b3", f"{high}-{SPAN}"))).recording


@pytest.mark.parametrize(
    ("parents", "address", "continued"),
    [
        (Parents.ALL, "192.0.2.1", True),
        (Parents.TRUSTED, "192.0.2.1", False),
        (Parents.TRUSTED, "10.0.0.1", True),
        (Parents.NONE, "10.0.0.1", False),
    ],
)
def test_whose_word_counts(parents, address, continued):
    each = exchange(("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", "a=1"), address=address, trusted=TRUSTED)
    each.trace = tracer(parents=parents).begin(each)
    assert (each.trace_id == TRACE) is continued
    assert ("tracestate" in written(each)) is continued


def test_each_attempt_is_told_its_own_span():
    each = begun()
    first = written(each)["traceparent"]
    each.trace.begin_attempt(TARGET, 1.0)
    second = written(each)["traceparent"]
    each.trace.failed(2.0, UpstreamError(Reason.UPSTREAM_RESET, "", Retry.SAFE, cause="broken pipe"))
    each.trace.begin_attempt(TARGET, 3.0)
    third = written(each)["traceparent"]
    each.trace.answered(4.0, 200, True)
    assert len({first, second, third}) == 3
    notes = [(note.span_id, note.started, note.ended, note.status, note.error) for note in each.trace.attempts]
    assert notes == [
        (second.split("-")[2], 1.0, 2.0, None, "upstream_reset"),
        (third.split("-")[2], 3.0, 4.0, 200, ""),
    ]


def test_a_stream_that_is_given_up_ends_with_the_next_attempt():
    each = begun()
    each.trace.begin_attempt(TARGET, 1.0)
    each.trace.answered(2.0, 503, False)
    each.trace.begin_attempt(TARGET, 3.0)
    assert [(note.status, note.ended) for note in each.trace.attempts] == [(503, 3.0), (None, None)]


def test_plugins_are_timed_also_the_one_that_answers():
    each = begun()
    seen = []
    for hook in each.trace.timed(["a", "b", "c"], "on_request"):
        seen.append(hook)
        if hook == "b":
            break
    assert seen == ["a", "b"]
    assert each.trace.phases == [("on_request", ["a", "b", "c"], [1.0, 2.0, 3.0])]


def test_plugins_are_timed_also_the_one_that_fails():
    each = begun()

    def call_hooks():
        for _ in each.trace.timed(["a", "b"], "on_request"):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        call_hooks()
    assert each.trace.phases == [("on_request", ["a", "b"], [1.0, 2.0])]


def test_a_request_on_behalf_of_the_exchange_belongs_to_it():
    each = begun(("traceparent", f"00-{TRACE}-{SPAN}-01"))
    each.trace.begin_attempt(TARGET, 1.0)
    onward = each.trace.onward()
    onward.begin_attempt(TARGET, 2.0)
    assert not onward.recording
    assert onward.fields() == f"traceparent: 00-{TRACE}-{each.span_id}-01\r\n"
    assert len(each.trace.attempts) == 1


def test_only_what_is_recorded_is_handed_over():
    made = tracer(0.0)
    each = exchange()
    made.record(each, 0.5)  # of before tracing was turned on
    each.trace = made.begin(each)
    made.record(each, 0.5)
    assert made.rows == []
    recorded = exchange(("b3", "1"))
    recorded.trace = made.begin(recorded)
    made.record(recorded, 0.5)
    assert made.rows == [(recorded, recorded.trace, 5.5)]
