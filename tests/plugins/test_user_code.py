"""Users' modules: which are loaded anew, which stay, and that a loading that is taken back leaves no trace."""

import gc
import itertools
import os
import sys
import weakref
from pathlib import Path
from types import ModuleType

import pytest

from gatewright.plugins.registry import PluginLoadError, Source, resolve
from gatewright.plugins.user_code import UserCode

numbers = itertools.count()


@pytest.fixture
def package(tmp_path):
    """A package of users' with a name of its own: `write(name, text)`; the modules go with the test."""
    name = f"mine{next(numbers)}"
    before = set(sys.modules)

    class Package:
        folder = tmp_path

        def __str__(self) -> str:
            return name

        def write(self, path: str, text: str) -> Path:
            file = tmp_path / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.replace("mine", name))
            return file

        def load(self, *modules: str) -> list[object]:
            with UserCode(tmp_path) as code:
                found = [code.module(f"{name}.{module}") for module in modules]
            code.keep()
            return found

    yield Package()
    for each in set(sys.modules) - before:
        sys.modules.pop(each, None)


def ours() -> dict[str, object]:
    return {name: module for name, module in sys.modules.items() if name.startswith(("mine", "gatewright_plugin"))}


@pytest.mark.parametrize("regular", [True, False], ids=["package", "namespace"])
def test_what_changed_and_what_imports_it_is_loaded_anew_and_the_rest_stays(package, regular):
    if regular:
        package.write("__init__.py", "")
    package.write("low.py", "A = 1")
    package.write("high.py", "from mine.low import A\nimport mine.aside")
    package.write("relative.py", "def late():\n    from .low import A\n    return A")
    package.write("aside.py", "B = 1")
    low, high, relative, aside = package.load("low", "high", "relative", "aside")
    assert package.load("low", "high", "relative", "aside") == [low, high, relative, aside], "nothing has changed"
    old = sys.modules[str(package)]
    package.write("low.py", "A = 2")
    now = package.load("low", "high", "relative", "aside")
    assert [new is before for new, before in zip(now, (low, high, relative, aside), strict=True)] == [False] * 3 + [
        True
    ]
    assert (now[1].A, now[2].late(), high.A) == (2, 2, 1)
    assert now[1].__dict__[str(package)].low.A == 2
    assert old.low is low, "code that runs goes on finding what it began with"
    assert sys.modules[str(package)].aside is aside


def test_a_package_that_changed_takes_its_modules_with_it(package):
    package.write("__init__.py", "C = 1")
    package.write("inner/__init__.py", "")
    package.write("inner/deep.py", "from mine import C")
    (deep,) = package.load("inner.deep")
    package.write("__init__.py", "C = 2")
    (now,) = package.load("inner.deep")
    assert (deep.C, now.C) == (1, 2)


def test_a_package_that_changed_keeps_the_modules_that_have_no_source(package):
    package.write("__init__.py", "")
    package.write("high.py", "import mine.native\nA = mine.native.A")
    native = sys.modules[f"{package}.native"] = ModuleType(f"{package}.native")
    native.A = 7
    for text in ("", "B = 1", "B = 2"):
        package.write("__init__.py", "import mine.native\n" * bool(text) + text)
        assert package.load("high")[0].A == 7


def test_an_import_by_name_at_run_time_counts(package):
    package.write("__init__.py", "")
    package.write("low.py", "A = 1")
    package.write("high.py", "from importlib import import_module\nA = import_module('mine.' + 'low').A")
    package.load("high")
    package.write("low.py", "A = 2")
    assert package.load("high")[0].A == 2


def test_two_edits_of_equal_length_at_one_time_both_take_effect(package):
    for number in range(5):
        file = package.write("low.py", f"A = {number}")
        os.utime(file, ns=(1, 1))
        (low,) = package.load("low")
        assert low.A is number
    assert not list(package.folder.rglob("*.pyc"))


@pytest.mark.parametrize(
    "broken", ["def (", "raise SystemExit", "raise KeyboardInterrupt", "import nowhere_at_all", "\0", "1 / 0"]
)
def test_a_loading_that_fails_is_taken_back(package, broken):
    package.write("__init__.py", "")
    package.write("low.py", "A = 1")
    package.write("high.py", "import mine.low")
    high, low = package.load("high", "low")
    before = ours()
    parents = dict(vars(sys.modules[str(package)]))
    package.write("low.py", "A = 2")
    package.write("new.py", "A = 3")
    package.write("high.py", f"import mine.low, mine.new\n{broken}")
    with pytest.raises((Exception, SystemExit, KeyboardInterrupt)), UserCode(package.folder) as code:
        code.module(f"{package}.high")
    assert ours() == before
    assert dict(vars(sys.modules[str(package)])) == parents
    assert "high.py" in {file.name for file in code.files}, "a change of it may put it right"
    assert (sys.modules[f"{package}.high"], sys.modules[f"{package}.low"]) == (high, low)
    package.write("high.py", "import mine.low")
    assert package.load("high", "low")[1].A == 2


def test_a_loading_can_be_taken_back_later(package):
    package.write("low.py", "A = 1")
    package.load("low")
    before = ours()
    package.write("low.py", "A = 2")
    package.write("new.py", "")
    with UserCode(package.folder) as code:
        assert code.module(f"{package}.low").A == 2
        code.module(f"{package}.new")
    assert ours() != before
    code.undo()
    code.undo()
    assert ours() == before
    assert package.load("low")[0].A == 2, "the file is still another than what runs"


def test_installed_packages_are_not_the_users(package):
    package.write("site-packages/inner.py", "A = 1")
    package.write("__init__.py", "")
    sys.path.insert(0, str(package.folder / str(package) / "site-packages"))
    try:
        with UserCode(package.folder) as code:
            assert code.module("inner").A == 1
            assert code.module("json").dumps
        assert code.files == frozenset()
    finally:
        del sys.path[0], sys.modules["inner"]


PLUGIN = """
from gatewright import Plugin, PluginConfig
class Config(PluginConfig):
    size: int = 1
class Mine(Plugin[Config]):
    version = {0}
"""


def test_old_modules_are_collected(tmp_path):
    file = tmp_path / "plugin.py"
    seen = []
    for number in range(3):
        file.write_text(PLUGIN.format(number))
        with Source(tmp_path) as source:
            found = source.resolve(None, "./plugin.py:Mine", tmp_path)
            assert source.resolve(None, "./plugin.py:Mine", tmp_path) is found
        source.keep()
        assert found.version == number
        assert sys.modules[found.__module__].Mine is found
        seen.append([weakref.ref(each) for each in (found, sys.modules[found.__module__], found.config_model)])
        del found
    gc.collect()
    assert [[ref() is not None for ref in pair] for pair in seen] == [[False] * 3, [False] * 3, [True] * 3]


def test_a_file_that_has_not_changed_is_loaded_once(tmp_path):
    (tmp_path / "plugin.py").write_text(PLUGIN.format(1))
    assert resolve(None, "./plugin.py:Mine", tmp_path) is resolve(None, "./plugin.py:Mine", tmp_path)


def test_the_helpers_of_a_file_are_watched_too(tmp_path):
    (tmp_path / "plugin.py").write_text("import helper_of_plugin\n" + PLUGIN.format("helper_of_plugin.A"))
    for number in range(3):
        (tmp_path / "helper_of_plugin.py").write_text(f"A = {number}")
        with Source(tmp_path) as source:
            assert source.resolve(None, "./plugin.py:Mine", tmp_path).version == number
        assert {file.name for file in source.files} == {"plugin.py", "helper_of_plugin.py"}


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("./nowhere.py:Mine", "there is no file"),
        ("./plugin.py:Other", "has no Other"),
        ("./plugin.py:Config", "is not a subclass"),
        ("plugin", "is not an import path"),
        ("./exits.py:Mine", r"cannot be loaded: SystemExit: 3 \(line 1 of exits.py\)"),
        ("./broken.py:Mine", r"\(line 1\)"),
    ],
)
def test_what_cannot_be_had_says_why(tmp_path, path, says):
    (tmp_path / "plugin.py").write_text(PLUGIN.format(1))
    (tmp_path / "exits.py").write_text("raise SystemExit(3)")
    (tmp_path / "broken.py").write_text("def (")
    with pytest.raises(PluginLoadError, match=says):
        resolve(None, path, tmp_path)
