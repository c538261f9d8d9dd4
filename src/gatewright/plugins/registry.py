"""Finding a plugin's class: built in, installed (entry point group `gatewright.plugins`), or by import path.

A `Source` serves one building of a configuration. Code of users' that has changed since it was loaded (a file beside
the configuration, `./tenant.py:Tenant`, or a module below its folder) is loaded anew, so that it takes effect with the
next configuration and exchanges in flight finish on the old code; see `user_code`.
"""

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from gatewright.core.contents import is_recalled
from gatewright.plugins.base import AnyPlugin, Plugin
from gatewright.plugins.user_code import UserCode

GROUP = "gatewright.plugins"
BUILT_IN = {
    "cache": "gatewright.plugins.cache.plugin:CachePlugin",
    "headers": "gatewright.plugins.headers:HeadersPlugin",
    "jwt": "gatewright.plugins.jwt:JwtPlugin",
    "logging": "gatewright.plugins.logging:LoggingPlugin",
    "rate_limit": "gatewright.plugins.rate_limit:RateLimit",
    "transform": "gatewright.plugins.transform:TransformPlugin",
}


class PluginLoadError(Exception):
    """A plugin's class cannot be had; the message says why, for the configuration's error list."""


def known_names() -> list[str]:
    """Return the names that `plugins` lists may use, in order."""
    return sorted({*BUILT_IN, *(entry.name for entry in entry_points(group=GROUP))})


def resolve(name: str | None, use: str | None, base_dir: Path) -> type[AnyPlugin]:
    """Return the class that a list entry names by `name`, or by the import path `use` (files relative to `base_dir`).

    Raises LookupError for an unknown name and PluginLoadError when the code cannot be loaded.
    """
    with Source(base_dir) as source:
        return source.resolve(name, use, base_dir)


class Source:
    """Classes and applications for one building of a configuration, as `with Source(base_dir) as source:`.

    What was loaded in the block stands, unless the block raises; `undo` takes it back later, `keep` ends that chance.
    """

    def __init__(self, base_dir: Path) -> None:
        """`base_dir` is the configuration's folder."""
        self._base_dir = base_dir
        self._code = UserCode(base_dir)
        self.undo = self._code.undo
        self.keep = self._code.keep

    def __enter__(self) -> "Source":
        self._code.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._code.__exit__(*exc)

    @property
    def files(self) -> frozenset[Path]:
        """The users' files that were loaded, or could not be."""
        return self._code.files

    @property
    def contents(self) -> dict[str, bytes]:
        """The source of each of the users' modules that are loaded, by its path."""
        return self._code.contents

    def known_names(self) -> list[str]:
        """Return the names that `plugins` lists may use, in order."""
        return known_names()

    def resolve(self, name: str | None, use: str | None, base_dir: Path) -> type[AnyPlugin]:
        """Return a plugin's class, as the function of this name does."""
        if use is not None:
            found = self.load_object(use)
        elif name in BUILT_IN:
            found = self.load_object(BUILT_IN[name])
        else:
            found = _installed(str(name))
        if not isinstance(found, type) or not issubclass(found, Plugin) or found is Plugin:
            raise PluginLoadError(f"{use or name} is not a subclass of gatewright.Plugin")
        return found

    def load_object(self, path: str) -> Any:
        """Return the object that `package.module:attribute` or `./file.py:attribute` names. Raises PluginLoadError."""
        place, colon, attributes = path.rpartition(":")
        if not colon or not place or not attributes:
            raise PluginLoadError(f"{path!r} is not an import path: write package.module:Name or ./file.py:Name")
        found: Any
        try:
            found = self._file(place) if place.endswith(".py") else self._code.module(place)
            for attribute in attributes.split("."):
                if not hasattr(found, attribute):
                    raise PluginLoadError(f"{place} has no {attribute}")
                found = getattr(found, attribute)
        except PluginLoadError:
            raise
        except BaseException as exc:  # whatever the users' code raises, SystemExit too, is about that code only
            raise PluginLoadError(f"{place} cannot be loaded: {_in_words(exc)}") from exc
        return found

    def _file(self, place: str) -> Any:
        file = self._base_dir / place
        known = file.is_file() or is_recalled(file.resolve())
        module = self._code.file(file) if known else None
        if module is None:
            raise PluginLoadError(f"there is no file {file}")
        return module


def _installed(name: str) -> Any:
    for entry in entry_points(group=GROUP, name=name):
        try:
            return entry.load()
        except BaseException as exc:
            raise PluginLoadError(f"the installed plugin {name} cannot be loaded: {_in_words(exc)}") from exc
    raise LookupError(name)


def _in_words(exc: BaseException) -> str:
    if isinstance(exc, SyntaxError):
        return f"{exc.msg} (line {exc.lineno})"
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    line = f" (line {trace.tb_lineno} of {Path(trace.tb_frame.f_code.co_filename).name})" if trace is not None else ""
    return f"{type(exc).__name__}: {exc}" + ("" if isinstance(exc, ImportError) else line)
