"""pydantic's errors in this project's words: what `test_models` and `test_loader` do not reach."""

from pathlib import Path

from gatewright.control.loader import load


def test_a_key_that_looks_like_a_mark_of_the_models_is_an_unknown_key(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text('"\\0a": 1\nlimits: {"\\0b": 1}\n')
    errors = [str(error) for error in load(path, {}).errors]
    assert [error.partition("gateway.yaml")[2].partition(";")[0] for error in errors] == [
        ':1:1: "\\u0000a": unknown key',
        ':2:10: limits."\\u0000b": unknown key',
    ]
