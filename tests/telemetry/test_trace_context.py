"""Trace contexts: what each format's grammar takes, what hostile fields come to, what is written."""

import pytest

from gatewright.core.headers import Headers
from gatewright.telemetry.trace_context import MAX_STATE, Parent, make_writer, read_parent, read_state

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
W3C = f"00-{TRACE}-{SPAN}-01"
ZERO_TRACE, ZERO_SPAN = "0" * 32, "0" * 16


def parent(*fields):
    return read_parent(Headers.of(fields))


@pytest.mark.parametrize(
    ("value", "sampled", "random"),
    [
        (W3C, True, False),
        (f"00-{TRACE}-{SPAN}-00", False, False),
        (f"00-{TRACE}-{SPAN}-02", False, True),
        (f"00-{TRACE}-{SPAN}-03", True, True),
        (f"00-{TRACE}-{SPAN}-ff", True, True),
        (f"01-{TRACE}-{SPAN}-01", True, False),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", True, False),
        (f"  {W3C}\t", True, False),
    ],
)
def test_traceparent(value, sampled, random):
    assert parent(("traceparent", value)) == Parent(TRACE, SPAN, sampled, random)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        W3C[:-1],
        W3C + "-",
        W3C + "-more",
        W3C + "1",
        f"ff-{TRACE}-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01x",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"00-{ZERO_TRACE}-{SPAN}-01",
        f"00-{TRACE}-{ZERO_SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0x",
        f"00-{TRACE}-{SPAN}-1",
        f"0-{TRACE}-{SPAN}-01",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01",
        "\xff" * 55,
        "00-" + "٣" * 16,
    ],
)
def test_a_traceparent_that_breaks_the_grammar_is_none(value):
    assert parent(("traceparent", value)) is None
    assert parent(("traceparent", value), ("tracestate", "a=1"), ("b3", f"{TRACE}-{SPAN}-1")) == Parent(
        TRACE, SPAN, True
    )


def test_a_field_that_comes_twice_says_nothing():
    assert parent(("traceparent", W3C), ("traceparent", W3C)) is None
    assert parent(("Traceparent", W3C), ("TRACEPARENT", W3C), ("tracestate", "a=1")) is None
    assert parent(("b3", f"{TRACE}-{SPAN}-1"), ("b3", f"{TRACE}-{SPAN}-1")) is None


def test_tracestate_comes_with_a_sound_traceparent_alone():
    fields = [("tracestate", "rojo=1, congo=2"), ("traceparent", W3C), ("tracestate", "x=3")]
    assert parent(*fields) == Parent(TRACE, SPAN, True, False, "rojo=1,congo=2,x=3")
    assert parent(("tracestate", "rojo=1"), ("b3", f"{TRACE}-{SPAN}-1")) == Parent(TRACE, SPAN, True)


@pytest.mark.parametrize(
    ("values", "state"),
    [
        (["a=1"], "a=1"),
        (["a=1,b=2", "c=3"], "a=1,b=2,c=3"),
        (["a=1 , \tb=2,,"], "a=1,b=2"),
        (["", ","], ""),
        (["fw529a3039@dt=FfAAEQ"], "fw529a3039@dt=FfAAEQ"),
        (["1a-_*/=z"], "1a-_*/=z"),
        (["a= 1"], "a= 1"),
        (["k" * 256 + "=v"], "k" * 256 + "=v"),
        (["a" + "=" + "v" * 256], "a=" + "v" * 256),
        ([",".join(f"k{n}=1" for n in range(32))], ",".join(f"k{n}=1" for n in range(32))),
    ],
)
def test_tracestate(values, state):
    assert read_state(values) == state


@pytest.mark.parametrize(
    "value",
    [
        "a",
        "=1",
        "a=",
        "A=1",
        "a=1,a=2",
        "a=1=2",
        "a b=1",
        "a@=1",
        "a@1b=1",
        "a@b@c=1",
        "k" * 257 + "=v",
        "a=" + "v" * 257,
        "a=\x7f",
        "a=ä",
        ",".join(f"k{n}=1" for n in range(33)),
    ],
)
def test_a_tracestate_that_breaks_the_grammar_is_dropped_as_a_whole(value):
    assert read_state([value]) == ""
    assert read_state(["x=1", value]) == ""


def test_a_long_tracestate_loses_its_long_members_then_the_oldest():
    long, short = f"a={'v' * 200}", [f"k{number:02}={'v' * 30}" for number in range(20)]
    state = read_state([",".join([short[0], long, *short[1:]])])
    assert len(state) <= MAX_STATE
    assert state.split(",") == short[: len(state.split(","))]
    assert len(",".join([state, short[0]])) > MAX_STATE


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (f"{TRACE}-{SPAN}-1", Parent(TRACE, SPAN, True)),
        (f"{TRACE}-{SPAN}-0", Parent(TRACE, SPAN, False)),
        (f"{TRACE}-{SPAN}-d", Parent(TRACE, SPAN, True)),
        (f"{TRACE}-{SPAN}", Parent(TRACE, SPAN, None)),
        (f"{TRACE}-{SPAN}-1-05e3ac9a4f6e3b90", Parent(TRACE, SPAN, True)),
        (f"{TRACE.upper()}-{SPAN}-1", Parent(TRACE, SPAN, True)),
        (f"{TRACE[16:]}-{SPAN}-1", Parent("0" * 16 + TRACE[16:], SPAN, True)),
        ("0", Parent("", "", False)),
        ("1", Parent("", "", True)),
        ("d", Parent("", "", True)),
        ("", None),
        ("2", None),
        (f"{TRACE}-{SPAN}-2", None),
        (f"{TRACE}-{SPAN}-1-", None),
        (f"{TRACE}-{SPAN[1:]}-1", None),
        (f"{TRACE[1:]}-{SPAN}-1", None),
        (f"{ZERO_TRACE}-{SPAN}-1", None),
        (f"{TRACE}-{ZERO_SPAN}-1", None),
        (f"{TRACE}-{SPAN}-1 x", None),
    ],
)
def test_b3(value, expected):
    assert parent(("b3", value)) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"TraceId": TRACE, "SpanId": SPAN, "Sampled": "1"}, Parent(TRACE, SPAN, True)),
        ({"TraceId": TRACE, "SpanId": SPAN, "Sampled": "true"}, Parent(TRACE, SPAN, True)),
        ({"TraceId": TRACE, "SpanId": SPAN, "Sampled": "0", "ParentSpanId": SPAN}, Parent(TRACE, SPAN, False)),
        ({"TraceId": TRACE, "SpanId": SPAN}, Parent(TRACE, SPAN, None)),
        ({"TraceId": TRACE, "SpanId": SPAN, "Flags": "1"}, Parent(TRACE, SPAN, True)),
        ({"TraceId": TRACE, "SpanId": SPAN, "Flags": "0"}, Parent(TRACE, SPAN, None)),
        ({"TraceId": TRACE[16:], "SpanId": SPAN, "Sampled": "1"}, Parent("0" * 16 + TRACE[16:], SPAN, True)),
        ({"Sampled": "0"}, Parent("", "", False)),
        ({"Sampled": "1"}, Parent("", "", True)),
        ({"Sampled": "maybe"}, None),
        ({"TraceId": TRACE}, None),
        ({"SpanId": SPAN}, None),
        ({"TraceId": "x" * 32, "SpanId": SPAN, "Sampled": "1"}, None),
        ({"TraceId": ZERO_TRACE, "SpanId": SPAN, "Sampled": "1"}, None),
    ],
)
def test_b3_in_several_fields(fields, expected):
    assert parent(*((f"X-B3-{name}", value) for name, value in fields.items())) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (f"{TRACE}:{SPAN}:0:1", Parent(TRACE, SPAN, True)),
        (f"{TRACE}:{SPAN}:0:0", Parent(TRACE, SPAN, False)),
        (f"{TRACE}:{SPAN}:0:3", Parent(TRACE, SPAN, True)),
        (f"{TRACE}:{SPAN}:0:2", Parent(TRACE, SPAN, True)),
        (f"{TRACE}:{SPAN}:{SPAN}:01", Parent(TRACE, SPAN, True)),
        (f"{TRACE}%3A{SPAN}%3a0%3A1", Parent(TRACE, SPAN, True)),
        ("abc:1:0:1", Parent("abc".zfill(32), "1".zfill(16), True)),
        ("0:1:0:1", None),
        ("abc:0:0:1", None),
        (f"{TRACE}:{SPAN}:1", None),
        (f"{TRACE}:{SPAN}:0:1:2", None),
        (f"{TRACE}0:{SPAN}:0:1", None),
        (f"{TRACE}:{SPAN}:0:", None),
        (f"{TRACE}:{SPAN}:0:-1", None),
        ("%", None),
        ("", None),
    ],
)
def test_jaeger(value, expected):
    assert parent(("uber-trace-id", value)) == expected


def test_the_first_sound_format_wins():
    formats = [
        [("uber-trace-id", f"{'a' * 32}:{SPAN}:0:1")],
        [("X-B3-TraceId", "b" * 32), ("X-B3-SpanId", SPAN)],
        [("b3", f"{'c' * 32}-{SPAN}-0")],
        [("traceparent", W3C)],
    ]
    found = [parent(*(field for each in formats[:count] for field in each)).trace_id for count in (1, 2, 3, 4)]
    assert found == ["a" * 32, "b" * 32, "c" * 32, TRACE]


def test_nothing_is_none():
    assert parent(("accept", "*/*")) is None


@pytest.mark.parametrize(
    ("names", "written"),
    [
        (["tracecontext"], f"traceparent: 00-{TRACE}-{SPAN}-01\r\ntracestate: a=1\r\n"),
        (["b3"], f"b3: {TRACE}-{SPAN}-1\r\n"),
        (["b3multi"], f"X-B3-TraceId: {TRACE}\r\nX-B3-SpanId: {SPAN}\r\nX-B3-Sampled: 1\r\n"),
        (["jaeger"], f"uber-trace-id: {TRACE}:{SPAN}:0:1\r\n"),
        (["b3", "jaeger"], f"b3: {TRACE}-{SPAN}-1\r\nuber-trace-id: {TRACE}:{SPAN}:0:1\r\n"),
    ],
)
def test_what_is_written_is_read_again(names, written):
    text = make_writer(names)(TRACE, SPAN, "01", "a=1")
    assert text == written
    fields = [tuple(line.split(": ")) for line in text.removesuffix("\r\n").split("\r\n")]
    assert parent(*fields)[:3] == (TRACE, SPAN, True)


@pytest.mark.parametrize("name", ["tracecontext", "b3", "b3multi", "jaeger"])
@pytest.mark.parametrize("flags", ["00", "02"])
def test_that_a_trace_is_not_recorded_is_written(name, flags):
    text = make_writer([name])(TRACE, SPAN, flags, "")
    fields = [tuple(line.split(": ")) for line in text.removesuffix("\r\n").split("\r\n")]
    assert parent(*fields).sampled is False
