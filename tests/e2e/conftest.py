"""Fixtures that several files of this folder share: gateways with a cache."""

from contextlib import ExitStack

import pytest

from gatewright.net.repeats import Repeat
from tests.kit.caching import Bench


@pytest.fixture
def bench(tmp_path):
    """Start gateways with a cache, of one test: `bench(settings)`."""
    with ExitStack() as stack:

        def start(settings="{}", **options):
            return Bench(settings, stack, tmp_path, **options)

        yield start


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """A gateway with a cache as it comes, for all tests of a file: each takes paths of its own."""
    with ExitStack() as stack:
        yield Bench("{}", stack, tmp_path_factory.mktemp("gateway"))


@pytest.fixture
def taken(monkeypatch):
    """Whether what is known was answered again, for each time that it came."""
    seen = []
    answer = Repeat.answer

    def watched(self, *args):
        result = answer(self, *args)
        seen.append(result is not None)
        return result

    monkeypatch.setattr(Repeat, "answer", watched)
    return seen
