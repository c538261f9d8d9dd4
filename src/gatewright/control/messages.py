"""What pydantic found, in this project's words: one `Problem` for each error, with what was probably meant.

It serves the configuration's own models and those of any plugin. It knows types, not places; the loader adds
these.
"""

import re
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from gatewright.control.errors import At, KeyPath, Problem, closest, listed

_KEY = "[key]"  # what pydantic adds to the location of a mapping's key
_TAG = "\0"  # what the tags of unions begin with; see balance_models.Balance
_LISTED_KEYS = 12

_QUOTED = re.compile(r"-?[1-9][0-9]*|0|true|false")  # what is of another type without its quotes

_WORDS = {
    "string_type": "must be a text",
    "string_unicode": "must be a text of valid characters",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "set_type": "must be a list",
    "frozen_set_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "mapping_type": "must be a mapping",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
}


def problems_of(error: ValidationError, model: type[BaseModel], prefix: KeyPath = ()) -> Iterator[Problem]:
    """Yield the problems of `error`, which `model` raised for the value at `prefix`."""
    found = error.errors(include_url=False)
    places = [tuple(item["loc"]) for item in found]
    inner = {place[:depth] for place in places for depth in range(len(place))}
    for item, place in zip(found, places, strict=True):
        if item["type"] == "too_short" and place in inner:
            continue  # pydantic counts a list's good entries only, and its bad ones are told anyway
        yield _problem(item, place, model, prefix)


def _problem(item: Any, place: KeyPath, model: type[BaseModel], prefix: KeyPath) -> Problem:
    kind, context = item["type"], item.get("ctx") or {}
    last = place[-1:] if kind == "extra_forbidden" else ()  # a key of the file, whatever it begins with
    inner = place[: len(place) - len(last)]
    path = prefix + tuple(element for element in inner if not str(element).startswith(_TAG)) + last
    if place and place[-1] == _KEY:
        return Problem(path[:-1], _text(item), context.get("suggestion"), At.KEY)
    if kind == "extra_forbidden":
        key = str(path[-1])
        known = sorted(_keys_at(model, place[:-1]))
        meant = closest(key, known)
        hint = f"; known here: {', '.join(known)}" if meant is None and 0 < len(known) <= _LISTED_KEYS else ""
        return Problem(path, f"unknown key{hint}", meant, At.KEY)
    if kind == "missing":
        return Problem(path, "is missing", None, At.KEY)
    if kind == "rule":
        return Problem(path, _text(item), None, At.KEY)
    if kind == "secret":
        return Problem(path, _text(item))
    if kind in ("literal_error", "enum"):
        allowed = re.findall(r"'([^']*)'|(-?[0-9]+)", context.get("expected", ""))
        words = [text or number for text, number in allowed]
        meant = closest(item["input"], words) if isinstance(item["input"], str) else None
        return Problem(path, f"must be {listed(words)}" if words else _text(item), meant, quote=True)
    return Problem(path, _text(item), context.get("suggestion"), quote=True)


def _text(item: Any) -> str:
    kind, context = item["type"], item.get("ctx") or {}
    if item["input"] is None and kind.endswith("_type"):
        return f"{_WORDS.get(kind, 'must have a value')}, and has no value"
    if kind == "string_type" and isinstance(item["input"], int | float):
        return "must be a text: put quotes round it"
    if kind in ("int_type", "bool_type") and _QUOTED.fullmatch(str(item["input"])):
        return f"{_WORDS[kind]}, without quotes"
    if kind in _WORDS:
        return _WORDS[kind].format_map(_Lenient(context))
    if kind == "too_short":
        least = context.get("min_length", 1)
        return "must not be empty" if least == 1 else f"must have at least {least} entries"
    text = str(item["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return re.sub(r"^(Input|Value) should ", "should ", text)


class _Lenient(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "?"


def _keys_at(model: type[BaseModel], place: KeyPath) -> set[str]:
    """Return the keys that a mapping at `place` below `model` may have."""
    candidates: list[Any] = [model]
    for element in place:
        candidates = [child for candidate in candidates for child in _children(candidate, element)]
    return {key for candidate in candidates for found in _models(candidate) for key in _keys(found)}


def _keys(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield field.alias or name


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that a value of this type may be."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    if _is_union(annotation) or hasattr(annotation, "__metadata__"):
        for part in _parts(annotation):
            yield from _models(part)


def _children(annotation: Any, element: str | int) -> Iterator[Any]:
    """Yield the types that the value at `element` of a value of type `annotation` may have."""
    if _is_union(annotation) or hasattr(annotation, "__metadata__"):
        if isinstance(element, str) and element.startswith(_TAG):
            yield annotation
            return
        for part in _parts(annotation):
            yield from _children(part, element)
        return
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            if element in (name, field.alias):
                yield field.annotation
        return
    origin, arguments = get_origin(annotation), get_args(annotation)
    if not isinstance(origin, type) or not arguments:
        return
    if issubclass(origin, Mapping):
        yield arguments[-1]
    elif issubclass(origin, Iterable) and isinstance(element, int):
        yield arguments[0]


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _parts(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or what an Annotated type is about."""
    if hasattr(annotation, "__metadata__"):
        return (annotation.__origin__,)
    return get_args(annotation)
