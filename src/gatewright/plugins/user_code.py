"""The users' own modules: those that lie below the configuration's folder are loaded anew when their source changed.

It owns what that does to the interpreter: which modules are the users', which of them need which, and taking a loading
back. Such modules are compiled from their source each time: a bytecode cache would hide the second of two edits of the
same length within a second. Everything else, the installed packages above all, is imported once as ever. The registry
loads through it; it knows no plugin.
"""

import ast
import importlib
import importlib.util
import itertools
import sys
import sysconfig
import threading
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from gatewright.core.contents import read

_STANDARD = Path(sysconfig.get_path("stdlib")).resolve()
_PREFIX = Path(sys.prefix).resolve()
_INSTALLED = frozenset(("site-packages", "dist-packages"))
_numbers = itertools.count(1)
_lock = threading.RLock()  # one loading at a time: what it changes belongs to the whole process
_thread = threading.local()  # `.names`: the modules that this thread is loading, the innermost last


@dataclass(slots=True)
class _Known:
    """A module of the users' that is loaded, or being loaded."""

    file: Path
    source: bytes  # the very one that was compiled
    needs: set[str] = field(default_factory=set)  # names of modules that it may import


_roots: set[Path] = set()  # the folders of configurations
_known: dict[str, _Known] = {}  # by module name
_files: dict[Path, str] = {}  # plugin files that were named by their path: the names of their modules
_touched: set[Path] = set()  # files that were read since this was last emptied


def _is_users(file: Path) -> bool:
    for root in _roots:
        if file.is_relative_to(root):
            installed = _INSTALLED.intersection(file.relative_to(root).parts)
            in_environment = _PREFIX.is_relative_to(root) and file.is_relative_to(_PREFIX)
            return not installed and not in_environment and not file.is_relative_to(_STANDARD)
    return False


class _Loader(SourceFileLoader):
    """Compiles from source, and notes what was compiled."""

    def get_code(self, fullname: str) -> CodeType:
        """Return the module's code. Raises OSError and SyntaxError."""
        file = Path(self.path).resolve()
        _touched.add(file)
        source = read(file)
        known = _known[fullname] = _Known(file, source)
        tree = ast.parse(source, self.path)
        known.needs.update(_imported(tree, fullname, self.is_package(fullname)))
        return self.source_to_code(tree, self.path)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code; whoever imports it at this moment needs it."""
        names = _thread.__dict__.setdefault("names", [])
        if names and (importer := _known.get(names[-1])) is not None:
            importer.needs.add(module.__name__)
        names.append(module.__name__)
        if self.is_package(module.__name__):
            _adopt(module)
        try:
            super().exec_module(module)
        finally:
            names.pop()


class _Finder:
    """Finds modules as Python does, and gives the users' own to `_Loader`."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return where the module is, or None."""
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or type(spec.loader) is not SourceFileLoader or spec.origin is None:
            return spec
        if name.partition(".")[0] != "gatewright" and _is_users(Path(spec.origin).resolve()):
            spec.loader = _Loader(name, spec.origin)
            spec.cached = None
        return spec


def _imported(tree: ast.Module, name: str, is_package: bool) -> Iterator[str]:
    """Yield the names that may be modules which the module `name` imports, wherever in it; its packages are."""
    yield from _with_packages(name.rpartition(".")[0])
    package = name if is_package else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_packages(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
                base = f"{above}.{base}".strip(".")
            yield from _with_packages(base)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _with_packages(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition(".")[0]


def _stale() -> set[str]:
    """Return the modules whose source is not what was compiled, and all that may have imported them."""
    stale = {name for name, known in _known.items() if _on_disk(known.file) != known.source}
    before = -1
    while stale and len(stale) != before:
        before = len(stale)
        stale |= {name for name, known in _known.items() if not known.needs.isdisjoint(stale)}
    return stale


def _on_disk(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None


@dataclass(slots=True)
class _Change:
    """What a loading did to `sys.modules` and to what is known here; a name that was not there has None."""

    modules: dict[str, ModuleType | None] = field(default_factory=dict)
    known: dict[str, _Known] = field(default_factory=dict)
    files: dict[Path, str] = field(default_factory=dict)


class UserCode:
    """One loading of user code: `with UserCode(folder) as code:` and `code.module(...)` in the block.

    Stale modules are loaded anew in it, all others are as they were. `undo` takes the whole loading back, `keep` lets
    it stand and lets go of what it replaced; a block that raises is undone.
    """

    def __init__(self, base_dir: Path) -> None:
        """`base_dir` is put on the import path, and the modules below it are the users'."""
        self._root = base_dir.resolve()
        self._change: _Change | None = None
        self._read: set[Path] = set()

    def __enter__(self) -> "UserCode":
        _lock.acquire()
        if str(self._root) not in sys.path:
            sys.path.insert(0, str(self._root))
        _roots.add(self._root)
        if _Finder not in sys.meta_path:
            place = sys.meta_path.index(PathFinder) if PathFinder in sys.meta_path else len(sys.meta_path)
            sys.meta_path.insert(place, _Finder)
        importlib.invalidate_caches()
        _touched.clear()
        change = self._change = _Change(known=dict(_known), files=dict(_files))
        stale = _stale()
        for name in stale:
            change.modules[name] = sys.modules.pop(name, None)
            del _known[name]
        for name in sorted({above for each in stale for above in _with_packages(each)} - stale):
            if (package := sys.modules.get(name)) is not None:
                change.modules[name] = package
                sys.modules[name] = _copy(package, stale)
        for file, name in list(_files.items()):
            if name not in _known:
                del _files[file]
        self._before = set(sys.modules)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        change = self._change
        assert change is not None
        for name in set(sys.modules) - self._before:
            if name in _known or _is_namespace(sys.modules[name]):
                change.modules.setdefault(name, None)
        del self._before
        self._read |= _touched
        self._read.update(known.file for known in _known.values() if known.file.is_relative_to(self._root))
        _lock.release()
        if kind is not None:
            self.undo()

    @property
    def files(self) -> frozenset[Path]:
        """The files that the loading depends on, also those that could not be loaded."""
        return frozenset(self._read)

    @property
    def contents(self) -> dict[str, bytes]:
        """The source of each of the users' modules that are loaded, by its path."""
        return {str(known.file): known.source for known in _known.values() if known.file.is_relative_to(self._root)}

    def module(self, name: str) -> ModuleType:
        """Return the module of an import path. Raises whatever its code raises."""
        return importlib.import_module(name)

    def file(self, file: Path) -> ModuleType:
        """Return the module of a file, under a name of its own. Raises whatever its code raises, and OSError."""
        file = file.resolve()
        self._read.add(file)
        known = _files.get(file)
        if known is not None and known in sys.modules:
            return sys.modules[known]
        name = f"gatewright_plugin_{next(_numbers)}_{file.stem}"
        spec = importlib.util.spec_from_file_location(name, file, loader=_Loader(name, str(file)))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and pydantic look their module up here
        try:
            spec.loader.exec_module(module)
        except BaseException:
            sys.modules.pop(name, None)
            _known.pop(name, None)
            raise
        _files[file] = name
        return module

    def keep(self) -> None:
        """Let the loading stand; the modules that it replaced live as long as somebody uses them."""
        self._change = None
        # Generic classes of typing remember what they were subscripted with, up to 128 of them each: `Plugin[Settings]`
        # would keep old modules alive. There is no public way to tell them to forget.
        forgets: Iterable[Any] = getattr(typing, "_cleanups", ())
        for forget in forgets:
            forget()

    def undo(self) -> None:
        """Take the loading back: the users' modules are again what they were before it."""
        change, self._change = self._change, None
        if change is None:
            return
        with _lock:
            for name, module in change.modules.items():
                _put(name, module)
            _known.clear()
            _known.update(change.known)
            _files.clear()
            _files.update(change.files)


def _copy(package: ModuleType, stale: set[str]) -> ModuleType:
    """Return a package like `package` for the new code: without the `stale` modules in it, which old code goes on
    finding in the old one. It is not run again: it imports none of them.
    """
    copy = ModuleType(package.__name__)
    for name, value in vars(package).items():
        if f"{package.__name__}.{name}" not in stale or not isinstance(value, ModuleType):
            setattr(copy, name, value)
    parent = sys.modules.get(package.__name__.rpartition(".")[0])
    if parent is not None:  # a copy itself
        setattr(parent, package.__name__.rpartition(".")[2], copy)
    return copy


def _adopt(package: ModuleType) -> None:
    """Give a package that is loaded anew those of its modules that stay."""
    start = package.__name__ + "."
    for name, module in list(sys.modules.items()):
        if name.startswith(start) and "." not in name[len(start) :]:
            setattr(package, name[len(start) :], module)


def _put(name: str, module: ModuleType | None) -> None:
    """Make `module` the module `name` again; None: there is none, in its package neither."""
    replaced = sys.modules.pop(name, None)
    if module is not None:
        sys.modules[name] = module
        return
    package, _, last = name.rpartition(".")
    parent = sys.modules.get(package)
    if parent is not None and replaced is not None and getattr(parent, last, None) is replaced:
        delattr(parent, last)


def _is_namespace(module: ModuleType) -> bool:
    """Tell whether `module` is a package of the users' without a file of its own."""
    if getattr(module, "__file__", None) is not None:
        return False
    return any(_is_users(Path(folder).resolve()) for folder in getattr(module, "__path__", ()))
