"""The configuration that runs, as a file would say it: defaults filled in, durations as "10s", secrets hidden.

It turns models into plain data by what their fields say of themselves, so a key that is added to a model appears here
without more ado. But for hidden values, the result can be loaded again. The routes of the API call `effective`.
"""

from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr, WithJsonSchema
from pydantic.fields import FieldInfo

from gatewright.admin.masking import MASK, mask
from gatewright.control.base import ConfigModel, Given
from gatewright.control.environment import escaped
from gatewright.control.fields import Address
from gatewright.control.models import GatewayConfig
from gatewright.control.plugin_models import PluginRef
from gatewright.core.units import DURATION_PATTERN, SHARE_PATTERN, SIZE_PATTERN, in_words

_QUANTITIES = (DURATION_PATTERN, SIZE_PATTERN, SHARE_PATTERN)


def effective(model: BaseModel, secrets: Collection[str] = ()) -> dict[str, Any]:
    """Return the configuration, or a section of it, as plain data without secrets."""
    data = _mapping(model)
    if not isinstance(model, GatewayConfig):
        return {name: _escaped(mask(value, secrets, name)) for name, value in data.items()}
    # The keys below `services` are names: a service that is called `tokens` is no secret.
    services = {name: mask(service, secrets) for name, service in data["services"].items()}
    shown = {name: services if name == "services" else mask(value, secrets, name) for name, value in data.items()}
    return {name: _escaped(value) for name, value in shown.items()}


def _escaped(data: Any) -> Any:
    """Return plain data with its texts as a file says them. Keys stay: no variables are put into them."""
    if isinstance(data, dict):
        return {key: _escaped(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_escaped(value) for value in data]
    return escaped(data) if isinstance(data, str) else data


def _mapping(model: BaseModel) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if value is None and Given in field.metadata:
            continue  # it was left out, and no value can say so
        found[name] = _plain(value, _quantity(field))
    if isinstance(model, ConfigModel):
        # A default beside a key that makes it meaningless (`pool` beside `app`) is no part of a valid file.
        for name, _ in list(model.rules(found)):
            found.pop(name, None)
    return found


def _quantity(field: FieldInfo) -> str | None:
    """Return the pattern of the field's text form, where its value is a quantity."""
    for item in field.metadata:
        if isinstance(item, WithJsonSchema) and item.json_schema is not None:
            for form in (item.json_schema, *item.json_schema.get("anyOf", ())):
                if form.get("pattern") in _QUANTITIES:
                    return str(form["pattern"])
    return None


def _plain(value: Any, quantity: str | None = None) -> Any:
    if value is None:
        return False  # a section that is switched off
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return value if quantity is None else _written(value, quantity)
    if isinstance(value, SecretStr):
        return MASK if value.get_secret_value() else ""
    if isinstance(value, BaseModel):
        return _mapping(value)
    if isinstance(value, PluginRef):
        return _plugin(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, frozenset):
        return list(_ranges(sorted(value)))
    if isinstance(value, list | tuple) and not isinstance(value, Address):
        return [_plain(inner) for inner in value]
    return str(value.absolute() if isinstance(value, Path) else value)  # an address, a network, a path


def _written(value: float, quantity: str) -> str | float:
    if value == 0 and quantity != SHARE_PATTERN:
        return 0
    text = in_words(value, quantity)
    return text if text != "0" else f"{value:.9f}s"


def _plugin(reference: PluginRef) -> Any:
    settings = _settings(dict(reference.config))
    if reference.use is not None:
        return {"use": reference.use, **settings}
    return {str(reference.name): settings} if settings else reference.name


def _settings(value: Any) -> Any:
    """Return a plugin's settings: plain data already, whose null must stay null."""
    if isinstance(value, Mapping):
        return {str(key): _settings(inner) for key, inner in value.items()}
    return [_settings(inner) for inner in value] if isinstance(value, list | tuple) else value


def _ranges(statuses: list[int]) -> Iterator[int | str]:
    """Yield statuses as a file writes them: 204, or "200-399"."""
    start = 0
    for index, status in enumerate(statuses):
        if index + 1 == len(statuses) or statuses[index + 1] != status + 1:
            yield status if start == index else f"{statuses[start]}-{status}"
            start = index + 1
