"""Loading in two halves: the data in one process, users' code in another, and the places of errors in the first."""

from pathlib import Path

import msgspec
import pytest

from gatewright.control.errors import Problem
from gatewright.control.loader import check_data, load
from gatewright.plugins import registry
from tests.control.sample import FULL

MINIMAL = "services: {a: {targets: [http://a]}}\n"
PLUGIN = """
from gatewright import Plugin, PluginConfig
class Config(PluginConfig):
    size: int
class Mine(Plugin[Config]):
    pass
"""


def test_data_survives_the_way_to_a_worker(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(FULL)
    loaded = load(path, {}, plugins=None)
    assert loaded.config is not None
    data = msgspec.msgpack.decode(msgspec.msgpack.encode(loaded.data))
    config, problems = check_data(data, loaded.base_dir, None)
    assert (config, problems) == (loaded.config, [])


@pytest.mark.parametrize(
    "number", ["18446744073709551616", "-9223372036854775809", "0o7777777777777777777777", "9" * 40]
)
def test_numbers_of_more_than_64_bits_are_refused_with_their_place(tmp_path: Path, number: str) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(MINIMAL + f"plugins: [{{use: 'a:B', x: {number}}}]\n")
    (error,) = load(path, {}, plugins=None).errors
    assert error.path == "plugins[0].x"
    assert error.message == "has more than 64 bits: if it is no number, put it in quotes"


@pytest.mark.parametrize(
    "number", ["18446744073709551615", "-9223372036854775808", "2024-01-01", "1e99", '"%s"' % ("9" * 40)]
)
def test_what_yaml_can_say_can_be_packed(tmp_path: Path, number: str) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(MINIMAL + f"plugins: [{{use: 'a:B', x: {number}, 1: {{2024-01-01: ~}}}}]\n")
    loaded = load(path, {}, plugins=None)
    assert loaded.errors == []
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(loaded.data)) == loaded.data


def test_a_variable_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(MINIMAL + "plugins: [{use: 'a:B', x: '${STRANGE}'}]\n")
    (error,) = load(path, {"STRANGE": "a\udcff"}, plugins=None).errors
    assert (error.path, error.message) == ("plugins[0].x", "holds bytes that are no UTF-8 text")


def test_problems_that_are_found_later_get_their_places(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(MINIMAL + "plugins:\n  - use: ./mine.py:Mine\n    size: ${SIZE}\n")
    (tmp_path / "mine.py").write_text(PLUGIN)
    loaded = load(path, {"SIZE": "many-secrets"}, plugins=None)
    assert loaded.errors == []
    config, problems = check_data(loaded.data, loaded.base_dir, registry)
    assert config is not None
    (error,) = loaded.errors_of(problems)
    line = path.read_text().split("\n").index("    size: ${SIZE}") + 1
    assert (error.file, error.line, error.column, error.path) == (path, line, 11, "plugins[0].size")
    assert "many-secrets" not in str(error)
    wide = loaded.errors_of([Problem(("plugins", 0), "it says many-secrets", wide=True)])
    assert wide[0].message == "it says ${SIZE}"


def test_problems_of_a_file_that_could_not_be_read_have_no_place(tmp_path: Path) -> None:
    loaded = load(tmp_path / "gateway.yaml", {})
    (error,) = loaded.errors_of([Problem(("a", 1), "is no good")])
    assert (error.line, error.path, error.message) == (0, "a[1]", "is no good")


def test_a_text_is_loaded_in_the_place_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    (tmp_path / "a.crt").write_text("")
    (tmp_path / ".env").write_text("PORT=7\n")
    text = "listeners: [{bind: 'a:${PORT}', tls: {cert: a.crt, key: a.crt}}]\n"
    loaded = load(path, {}, text=text)
    assert loaded.config is not None
    assert loaded.config.listeners[0].bind.port == 7
    assert loaded.config.listeners[0].tls is not None
    assert loaded.config.listeners[0].tls.cert == tmp_path / "a.crt"
    assert loaded.files[0] == path
    (error,) = load(path, {}, text="lissteners: []\n").errors
    assert str(error).startswith("request body:1:1: lissteners: unknown key")


def test_a_root_that_is_no_mapping_is_an_error_in_both_halves(tmp_path: Path) -> None:
    config, problems = check_data([], tmp_path, registry)
    assert config is None
    assert problems
