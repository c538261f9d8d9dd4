"""Reading YAML: what is taken, what is refused, within which bounds, and the same with and without the C library."""

from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from gatewright.control.document import Document, resolve_scalar
from gatewright.control.errors import At
from gatewright.control.yaml_tree import MAX_DEPTH, Mapping, Node, Scalar, YamlError, read

LOADERS: list[Any] = [yaml.SafeLoader, *([yaml.CSafeLoader] if yaml.__with_libyaml__ else [])]


def plain(node: Node) -> Any:
    """Return what a tree holds, with places."""
    if isinstance(node, Scalar):
        return node.text, node.plain
    if isinstance(node, Mapping):
        return {key: (entry.key, entry.value, plain(entry.node)) for key, entry in node.entries.items()}
    return [(entry.value if plain(entry.node) != ("", True) else None, plain(entry.node)) for entry in node.entries]


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("", (1, 1), "empty"),
        ("# only a comment\n", (1, 1), "empty"),
        ("a: 1\n---\nb: 2\n", (2, 1), "second document"),
        ("a: [1, 2\nb: 3\n", (2, 2), "not valid YAML"),
        ("a:\n\tb: 1\n", (2, 1), "a tab"),
        ("a: {b: ${X}}\n", (1, 9), "needs quotes"),
        ("a: *none\n", (1, 4), "no anchor &none"),
        ("a: &x [*x]\n", (1, 8), "inside what it names"),
        ("a: \x07\n", (1, 4), "U+0007"),
        ("[" * 100_000, (1, MAX_DEPTH + 2), "nested deeper"),
        ("a: &a [" * (MAX_DEPTH + 1), (1, 225), "nested deeper"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(
    loader: Any, text: str, place: tuple[int, int], message: str
) -> None:
    with pytest.raises(YamlError) as caught:
        read(text, loader)
    assert message in caught.value.message
    assert caught.value.place == place


def test_an_alias_bomb_is_refused_before_it_grows() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    with pytest.raises(YamlError, match="aliases followed") as caught:
        read("\n".join(lines))
    assert caught.value.place[0] == 6


def test_merge_keys_cannot_grow_either() -> None:
    base = "b: &b {" + ", ".join(f"k{n}: 1" for n in range(1000)) + "}\n"
    with pytest.raises(YamlError, match="aliases followed"):
        read(base + "".join(f"m{n}: {{<<: *b}}\n" for n in range(2000)))


@pytest.mark.parametrize(
    ("text", "variables", "place"),
    [
        (f"x: &x {'a' * 2**20}\nxs: [{', '.join(['*x'] * 32)}]\n", {}, (2, 126)),
        (f"x: &x '{'ä' * 2**20}'\nxs:\n" + "- *x\n" * 16, {}, (17, 3)),
        (f"x: &x {{{'a' * 1000}: 1}}\nxs:\n" + "- *x\n" * 2**16, {}, (33522, 3)),
        ("x: ${X}${X}\ny: ${X}\n", {"X": "a" * 2**24}, (1, 4)),
    ],
    ids=["texts", "bytes", "keys", "variables"],
)
def test_aliases_and_variables_make_no_more_of_a_file_than_a_worker_is_told(
    text: str, variables: dict[str, str], place: tuple[int, int]
) -> None:
    with pytest.raises(YamlError, match="more than 32 MiB of text up to here") as caught:
        Document(text, variables)
    assert caught.value.place == place


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", (3, 1), "stands here twice, first in line 1"),
        ("? [x]\n: 1\n", (1, 3), "a key must be a text"),
        ("a: !!python/object:os.system x\n", (1, 4), "tags"),
        ("a: {<<: 5}\n", (1, 9), "<< takes a mapping"),
    ],
)
def test_what_can_be_read_past_is_gathered(loader: Any, text: str, place: tuple[int, int], message: str) -> None:
    _, _, (problem,) = read(text, loader)
    assert message in problem.message
    assert problem.place == place


def test_anchors_aliases_and_merge_keys_keep_places() -> None:
    text = "base: &b\n  x: 1\n  y: 2\nuse:\n  <<: *b\n  y: 3\nagain: *b\nlist: [*b]\n"
    document = Document(text, {})
    assert document.data == {
        "base": {"x": 1, "y": 2},
        "use": {"y": 3, "x": 1},
        "again": {"x": 1, "y": 2},
        "list": [{"x": 1, "y": 2}],
    }
    assert document.place(("use", "x"), At.VALUE) == (2, 6)
    assert document.place(("use", "y"), At.VALUE) == (6, 6)
    assert document.place(("again",), At.VALUE) == (7, 8)
    assert document.place(("again", "y"), At.KEY) == (3, 3)
    assert document.place(("list", 0), At.VALUE) == (8, 8)
    assert document.place(("use", "gone"), At.KEY) == (4, 1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("0755", "0755"),
        ("0o17", 15),
        ("0x1F", 31),
        ("10:30", "10:30"),
        ("1_000", "1_000"),
        ("2026-11-22", "2026-11-22"),
        ("-12", -12),
        ("1.50", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        (".", "."),
        ("-", "-"),
        ("+.", "+."),
        (".inf", ".inf"),
        ("10.0.0.1", "10.0.0.1"),
        ("٣", "٣"),
    ],
)
def test_plain_scalars_follow_the_core_rules(text: str, value: object) -> None:
    resolved = resolve_scalar(text)
    assert resolved == value
    assert type(resolved) is type(value)


def test_a_number_of_any_length_resolves() -> None:
    assert resolve_scalar("9" * 10_000) == "9" * 10_000


def test_types_are_resolved_after_interpolation_and_quotes_keep_text() -> None:
    document = Document('a: ${X}\nb: "${X}"\nc: ${X}0\nd: ${X:-no}\n${X}: 1 # ${NONE}\n', {"X": "8"})
    assert document.data == {"a": 8, "b": "8", "c": 80, "d": 8, "${X}": 1}
    assert document.problems == []


@pytest.mark.skipif(len(LOADERS) < 2, reason="PyYAML is installed without its C library")
@given(st.text(alphabet="ab:-[]{}&*<?, #'\"\n|>~1!%"))
@example("a: &x 1\nb: *x\n")
def test_with_and_without_the_c_library_what_both_take_is_the_same(text: str) -> None:
    trees = []
    for loader in LOADERS:
        try:
            node, _, problems = read(text, loader)
        except YamlError:
            return
        trees.append((plain(node), [(problem.place, problem.message) for problem in problems]))
    assert trees[0] == trees[1]
