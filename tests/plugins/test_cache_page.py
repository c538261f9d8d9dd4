"""The page about the cache: its settings are all there, with their defaults, and its examples load."""

import re
from pathlib import Path

import pytest

from gatewright.control.loader import load
from gatewright.core.units import parse_duration, parse_size
from gatewright.plugins.cache.config import CacheConfig

PAGE = (Path(__file__).parents[2] / "docs/plugins/cache.md").read_text()
ROWS = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", PAGE, re.MULTILINE))
READ = {"none": lambda text: None, "false": lambda text: False, "0": lambda text: 0.0}


def test_every_setting_has_its_row():
    assert list(ROWS) == list(CacheConfig.model_fields)


@pytest.mark.parametrize("name", CacheConfig.model_fields)
def test_the_default_is_right(name):
    text = ROWS[name]
    read = READ.get(text) or (parse_size if text.endswith("B") else parse_duration)
    assert (CacheConfig.model_fields[name].default or None) == (read(text) or None)


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_the_examples_load(block, tmp_path):
    (tmp_path / "gateway.yaml").write_text(block)
    assert [str(error) for error in load(tmp_path / "gateway.yaml", {}).errors] == []
