"""The Consul agent that tests of discovery and registration tell what to say."""

from collections.abc import Iterator

import pytest

from tests.kit.consul import FakeConsul


@pytest.fixture
def consul() -> Iterator[FakeConsul]:
    with FakeConsul() as consul:
        yield consul
