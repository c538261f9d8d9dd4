"""A real Redis for the tests of the stores."""

import pytest

from tests.kit.servers import redis_server


@pytest.fixture(scope="module")
def server():
    with redis_server() as running:
        yield running


@pytest.fixture
def redis(server):
    server.ask("FLUSHALL")
    server.ask("SCRIPT", "FLUSH")
    return server
