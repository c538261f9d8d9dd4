"""The page of the `rate_limit` plugin is true: its numbers are the code's, its URLs are URLs."""

import re
from pathlib import Path

from gatewright.state import redis, shared, table
from gatewright.state.limits import CELLS, ENTRIES, Gcra
from gatewright.state.redis_url import parse_redis_url

TEXT = (Path(__file__).parents[2] / "docs/plugins/rate_limit.md").read_text()


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
