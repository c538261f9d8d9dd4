"""A checkout to run the script in, and an instance of the demo that is stopped at the test's end."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.run_all import Demo, copy_checkout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copy_checkout(tmp_path / "a checkout")


@pytest.fixture
def demo(checkout: Path) -> Iterator[Demo]:
    instance = Demo(checkout)
    yield instance
    instance.run("stop")
