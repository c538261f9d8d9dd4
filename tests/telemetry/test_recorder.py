"""Who is told of an exchange: counters, access log, both or nobody."""

import pytest

from gatewright.telemetry.access_log import AccessLog
from gatewright.telemetry.counters import Counters
from gatewright.telemetry.recorder import make_recorder
from tests.telemetry.finished import finished


class Lines(list):
    write = list.append


class Clock:
    def now(self):
        return 0.0

    def wall(self):
        return 1000.0


def test_both_are_told():
    counters, lines = Counters(), Lines()
    recorder = make_recorder(counters, AccessLog(lines, Clock()))
    recorder.record(finished(), 0.1)
    assert (len(lines), len(counters.changes())) == (1, 1)


def test_one_alone_is_asked_without_a_step_between():
    counters, log = Counters(), AccessLog(Lines(), Clock())
    assert make_recorder(counters, None) is counters
    assert make_recorder(None, log) is log
    assert make_recorder(None, None) is None


def test_an_exchange_whose_line_cannot_be_written_counts():
    counters = Counters()
    recorder = make_recorder(counters, AccessLog(Lines(), Clock()))
    with pytest.raises(UnicodeEncodeError):
        recorder.record(finished(reason="\ud800"), 0.1)
    assert len(counters.changes()) == 2
