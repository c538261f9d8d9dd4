"""An admin API without a token, served once for the tests of a file; each begins with its operations anew."""

from collections.abc import Iterator

import pytest

from tests.kit.admin import FakeOperations, RunningAdmin, run_admin


@pytest.fixture(scope="module")
def one_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAdmin]:
    with run_admin(FakeOperations(tmp_path_factory.mktemp("admin"))) as running:
        yield running


@pytest.fixture
def admin(one_for_all: RunningAdmin) -> RunningAdmin:
    one_for_all.call(one_for_all.operations.reset)
    return one_for_all
