"""Finding a plugin's class: built in, installed (entry point group `gatewright.plugins`), or by import path.

A file beside the configuration (`./tenant.py:Tenant`) is loaded anew each time, under a name of its own, so that a
changed file takes effect with the next configuration and exchanges in flight finish on the old code.
"""

import importlib
import importlib.util
import itertools
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from gatewright.plugins.base import AnyPlugin, Plugin

GROUP = "gatewright.plugins"
BUILT_IN = {
    "headers": "gatewright.plugins.headers:HeadersPlugin",
    "transform": "gatewright.plugins.transform:TransformPlugin",
}
_loads = itertools.count(1)


class PluginLoadError(Exception):
    """A plugin's class cannot be had; the message says why, for the configuration's error list."""


def known_names() -> list[str]:
    """Return the names that `plugins` lists may use, in order."""
    return sorted({*BUILT_IN, *(entry.name for entry in entry_points(group=GROUP))})


def resolve(name: str | None, use: str | None, base_dir: Path) -> type[AnyPlugin]:
    """Return the class that a list entry names by `name`, or by the import path `use` (files relative to `base_dir`).

    Raises LookupError for an unknown name and PluginLoadError when the code cannot be loaded.
    """
    if use is not None:
        found = load_object(use, base_dir)
    elif name in BUILT_IN:
        found = load_object(BUILT_IN[name], base_dir)
    else:
        found = _installed(str(name))
    if not isinstance(found, type) or not issubclass(found, Plugin) or found is Plugin:
        raise PluginLoadError(f"{use or name} is not a subclass of gatewright.Plugin")
    return found


def _installed(name: str) -> Any:
    for entry in entry_points(group=GROUP, name=name):
        try:
            return entry.load()
        except Exception as exc:
            raise PluginLoadError(f"the installed plugin {name} cannot be loaded: {_in_words(exc)}") from exc
    raise LookupError(name)


def load_object(path: str, base_dir: Path) -> Any:
    """Return the object that `package.module:attribute` or `./file.py:attribute` names.

    `base_dir` is put on the import path. Raises PluginLoadError.
    """
    place, colon, attributes = path.rpartition(":")
    if not colon or not place or not attributes:
        raise PluginLoadError(f"{path!r} is not an import path: write package.module:Name or ./file.py:Name")
    found: Any
    try:
        found = _load_file(base_dir / place) if place.endswith(".py") else _load_module(place, base_dir)
    except PluginLoadError:
        raise
    except Exception as exc:
        raise PluginLoadError(f"{place} cannot be loaded: {_in_words(exc)}") from exc
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise PluginLoadError(f"{place} has no {attribute}") from None
    return found


def _load_module(name: str, base_dir: Path) -> Any:
    folder = str(base_dir.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


def _load_file(file: Path) -> Any:
    if not file.is_file():
        raise PluginLoadError(f"there is no file {file}")
    name = f"gatewright_plugin_{next(_loads)}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pydantic look their module up here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _in_words(exc: Exception) -> str:
    if isinstance(exc, SyntaxError):
        return f"{exc.msg} (line {exc.lineno})"
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    line = f" (line {trace.tb_lineno} of {Path(trace.tb_frame.f_code.co_filename).name})" if trace is not None else ""
    return f"{type(exc).__name__}: {exc}" + ("" if isinstance(exc, ImportError) else line)
