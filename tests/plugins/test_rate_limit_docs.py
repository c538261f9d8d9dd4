"""The page of the `rate_limit` plugin is true: its configurations load, its settings and numbers are the code's."""

import re
from pathlib import Path

import pytest

from gatewright.control.loader import load
from gatewright.plugins.rate_limit_config import LimitConfig, RateLimitConfig
from gatewright.state import redis, shared, table
from gatewright.state.limits import CELLS, ENTRIES, Gcra
from gatewright.state.redis_url import parse_redis_url

TEXT = (Path(__file__).parents[2] / "docs/plugins/rate_limit.md").read_text()


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL))
def test_examples_load(block, tmp_path):
    (tmp_path / "gateway.yaml").write_text(block)
    assert [str(error) for error in load(tmp_path / "gateway.yaml", {}).errors] == []


@pytest.mark.parametrize("name", RateLimitConfig.model_fields)
def test_every_setting_is_there(name):
    field = (LimitConfig if name in LimitConfig.model_fields else RateLimitConfig).model_fields[name]
    default = str(field.default).lower() if isinstance(field.default, bool) else field.default
    shown = f"`{default}`" if default else ""
    assert f"\n| `{name}` | {shown} | {field.description} |\n" in TEXT


def test_the_numbers_are_the_codes():
    places, buckets = shared.PLACES, shared.PLACES // table.WAYS
    assert f"room for {places:,} keys in {buckets:,}\nbuckets of {table.WAYS}" in TEXT
    assert f"a file of {round((table.HEADER + buckets * table.BUCKET) / 2**20)} MiB" in TEXT
    assert f"with a lock delays the others by {shared.WAIT * 1000:g} ms, once\na second" in TEXT
    assert shared.STUCK == 1
    assert f"for at most {redis.BOUND * 1000:g} ms" in TEXT
    assert f"after {redis.PROBE_MIN * 1000:g} ms to {redis.PROBE_MAX:g} s" in TEXT
    assert f"with Redis after {redis.LEASE:g} s" in TEXT
    assert f"renewed every {redis.LEASE / 3:g} s; a Redis that was away longer than {redis.LEASE:g} s" in TEXT
    assert (f"Up to {ENTRIES} exact" in TEXT, "a twelfth" in TEXT, CELLS) == (True, True, 12)
    assert f"a `gcra` limit of 3000 a second is one of {1_000_000 // Gcra(3000, 1_000_000).interval}" in TEXT


def test_the_urls_are_urls():
    urls = re.findall(r"^(redis\S+)|(unix:///path)", TEXT, re.MULTILINE)
    assert len(urls) == 4
    for url in urls:
        parse_redis_url("".join(url))
