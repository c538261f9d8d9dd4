"""The plugins that a configuration names: that each is there, and that its settings are what its model takes.

It owns where plugin lists stand and how their entries map to key paths. Where classes come from is a
parameter: the plugins' registry in a gateway, something of its own in a test. The loader calls it.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from gatewright.control.errors import At, KeyPath, Problem, closest
from gatewright.control.messages import problems_of
from gatewright.control.plugin_models import PluginRef, parse_plugin
from gatewright.plugins.registry import PluginLoadError

_NO_REDIS = (
    'needs a Redis, and the configuration has none: say where it is with `state: {redis: "redis://host:6379/0"}`'
)


class PluginClass(Protocol):
    """What is needed of a plugin's class: the model of its settings, and that they make an instance."""

    @property
    def config_model(self) -> type[BaseModel]:
        """The pydantic model of the settings."""

    def __call__(self, config: Any) -> object:
        """Make an instance; raise ValueError for what the model cannot see."""


class PluginSource(Protocol):
    """Where classes come from; the module `gatewright.plugins.registry` is one."""

    def known_names(self) -> Iterable[str]:
        """Return the names that lists may use."""

    def resolve(self, name: str | None, use: str | None, base_dir: Path) -> PluginClass:
        """Return the class of a name or import path; LookupError for an unknown name, else what loading
        raises.
        """


def plugin_lists(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, list[Any]]]:
    """Yield every list of plugins with its key path: the global one, those of services, those of routes."""
    owners: list[tuple[KeyPath, Any]] = [((), data)]
    services, routes = data.get("services"), data.get("routes")
    if isinstance(services, Mapping):
        owners += [(("services", name), service) for name, service in services.items()]
    if isinstance(routes, list):
        owners += [(("routes", index), route) for index, route in enumerate(routes)]
    for path, owner in owners:
        plugins = owner.get("plugins") if isinstance(owner, Mapping) else None
        if isinstance(plugins, list):
            yield (*path, "plugins"), plugins


def plugin_references(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, PluginRef]]:
    """Yield every well-formed reference with its key path; what is malformed, the models report."""
    for path, plugins in plugin_lists(data):
        for index, entry in enumerate(plugins):
            try:
                yield (*path, index), parse_plugin(entry)
            except PydanticCustomError:
                continue


def check_plugins(data: Mapping[str, Any], base_dir: Path, source: PluginSource) -> Iterator[Problem]:
    """Yield what is wrong with the plugins of `data` and their settings.

    Each class is loaded once. A plugin's code may raise anything, so anything is caught and told.
    """
    classes: dict[str, PluginClass | Problem] = {}
    state = data.get("state")
    has_redis = isinstance(state, Mapping) and bool(state.get("redis"))
    for path, reference in plugin_references(data):
        if reference.label not in classes:
            classes[reference.label] = _load(path, reference, base_dir, source)
        found = classes[reference.label]
        if isinstance(found, Problem):
            yield found._replace(path=path)
        else:
            yield from _check_settings(path, reference, found, has_redis)


def _load(path: KeyPath, reference: PluginRef, base_dir: Path, source: PluginSource) -> PluginClass | Problem:
    try:
        return source.resolve(reference.name, reference.use, base_dir)
    except LookupError:
        names = source.known_names()
        return Problem(path, f"there is no plugin {reference.label!r}", closest(reference.label, names))
    except PluginLoadError as error:
        return Problem(path, str(error))
    except BaseException as error:  # SystemExit, say: the code is the users'
        return Problem(path, f"the plugin {reference.label!r} cannot be loaded: {_in_words(error)}")


def _check_settings(path: KeyPath, reference: PluginRef, found: PluginClass, has_redis: bool) -> Iterator[Problem]:
    settings_path = path if reference.name is None else (*path, reference.name)
    model = found.config_model
    try:
        made = found(model.model_validate(dict(reference.config)))
    except ValidationError as error:
        yield from problems_of(error, model, settings_path)
    except ValueError as error:
        yield Problem(settings_path, str(error) or _in_words(error), at=At.KEY)
    except BaseException as error:
        message = f"the plugin {reference.label!r} fails on these settings: {_in_words(error)}"
        yield Problem(settings_path, message, at=At.KEY)
    else:
        setting = getattr(made, "needs_redis", "")
        if setting and not has_redis:
            yield Problem((*settings_path, setting), _NO_REDIS)


def _in_words(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
