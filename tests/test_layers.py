"""The architecture, held: which room may import which, every module on its own, sizes, and who creates tasks."""

import ast
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "gatewright"
MODULES = sorted(SOURCE.rglob("*.py"))

# A room may import from itself and from rooms of lower rank; `TYPE_CHECKING` imports count. http1 and http2 are peers.
RANKS = {
    "core": 0, "telemetry": 1, "http1": 2, "http2": 2, "net": 3, "routing": 4, "state": 5, "plugins": 6, "upstream": 7,
    "proxy": 8, "control": 9, "admin": 10, "app": 11, "supervisor": 12, "cli": 13,
}  # fmt: skip
FILE_LINES = 400
FUNCTION_LINES = 50
# Words of a comment directly above a function that is longer, which say why it is one piece.
REASON = re.compile(r"# Longer than \d+ lines: ")


def name_of(path):
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")


def room_of(module):
    _, _, room = module.partition(".")
    room = room.partition(".")[0]
    return "app" if room.startswith("asgi") else room  # the gateway as an ASGI application sits with the app


@cache
def tree_of(path):
    return ast.parse(path.read_text())


def imported(path):
    """Yield (line, module) for each import of the project's own modules, wherever in the file it stands."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "gatewright")
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: imports are absolute"
            if node.module and node.module.split(".")[0] == "gatewright":
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    known = (SOURCE.parent / inner.replace(".", "/")).with_suffix(".py").exists()
                    yield node.lineno, inner if known or node.module == "gatewright" else node.module


def test_every_room_has_its_rank():
    rooms = {room_of(name_of(path)) for path in MODULES} - {""}
    assert rooms <= RANKS.keys()


def test_rooms_import_only_what_is_below_them():
    wrong = []
    for path in MODULES:
        room = room_of(name_of(path))
        if not room:  # the package itself: its names are loaded when they are first used
            continue
        for line, module in imported(path):
            other = room_of(module)
            if other != room and RANKS[other] >= RANKS[room]:
                wrong.append(f"{path.relative_to(SOURCE)}:{line}: {room} imports {module}")
    assert wrong == []


def test_every_module_can_be_imported_first():
    """One interpreter: before each import, all of its room is forgotten, so that no other import can have helped.

    What is loaded of the rooms below stays: it imports nothing of this one.
    """
    names = sorted(map(name_of, MODULES), key=lambda name: RANKS.get(room_of(name), -1))
    rooms = {name: [other for other in names if room_of(other) == room_of(name)] for name in names}
    code = (
        "import importlib, json, sys\n"
        "for name, room in json.load(sys.stdin).items():\n"
        "    for loaded in room:\n"
        "        sys.modules.pop(loaded, None)\n"
        "    importlib.import_module(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        input=json.dumps(rooms), capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_package_itself_loads_nothing():
    code = "import sys, gatewright; print(sorted(key for key in sys.modules if key.startswith('gatewright')))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "['gatewright']\n"


def test_files_are_short():
    long = {
        str(path.relative_to(SOURCE)): lines
        for path in MODULES
        if (lines := len(path.read_text().splitlines())) > FILE_LINES
    }
    assert long == {}


def functions(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_functions_are_short_or_say_why_not():
    long = []
    for path in MODULES:
        lines = path.read_text().splitlines()
        for node in functions(path):
            count = (node.end_lineno or 0) - node.lineno + 1
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            above = []
            while lines[first - 2].strip().startswith("#"):
                first -= 1
                above.insert(0, lines[first - 1].strip())
            if count > FUNCTION_LINES and not (above and REASON.match(above[0])):
                long.append(f"{path.relative_to(SOURCE)}:{node.lineno}: {node.name} has {count} lines")
    assert long == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_what_it_is_for(path):
    assert ast.get_docstring(tree_of(path)), "begin the file with what it owns and who calls it"


def creates_a_task(node):
    names = {"create_task", "ensure_future"}
    if isinstance(node, ast.ImportFrom):
        return bool({alias.name for alias in node.names} & names)
    return isinstance(node, ast.Attribute) and node.attr in names


def test_tasks_are_created_in_one_place():
    found = {name_of(path) for path in MODULES for node in ast.walk(tree_of(path)) if creates_a_task(node)}
    assert found == {"gatewright.core.tasks"}
