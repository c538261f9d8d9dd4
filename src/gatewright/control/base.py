"""What all configuration models share: strictness, and rules that span several keys of one mapping.

Unknown keys are refused and models are frozen. The models use it; it knows none of them.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    model_validator,
)
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_core import InitErrorDetails, PydanticCustomError


class ConfigModel(BaseModel):
    """A mapping of the configuration.

    Validators are built when they are first used, as most models are only parts of others. For the same reason defaults
    are made by `model_construct`, which checks nothing: a start would build a dozen of them for that alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    @classmethod
    def rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for what is wrong between the keys of `data`, which is not checked yet; key ""
        is all.

        It is asked beside the checks of single values, so that a user sees both kinds at once.
        """
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _apply_rules(cls, data: Any, handler: ModelWrapValidatorHandler["ConfigModel"]) -> "ConfigModel":
        if not isinstance(data, Mapping):
            return handler(data)
        broken = [
            InitErrorDetails(
                type=PydanticCustomError("rule", "{text}", {"text": message}),
                loc=(key,) if key else (),
                input=data,
            )
            for key, message in cls.rules(data)
        ]
        if not broken:
            return handler(data)
        try:
            handler(data)
        except ValidationError as error:
            broken[:0] = [_again(details) for details in error.errors(include_url=False)]
        raise ValidationError.from_exception_data(cls.__name__, broken)


def _again(details: Any) -> InitErrorDetails:
    """Return an error that was read in the form in which it can be raised."""
    context = {"text": details["msg"]} | details.get("ctx", {})
    return InitErrorDetails(
        type=PydanticCustomError(details["type"], "{text}", context),
        loc=details["loc"],
        input=details["input"],
    )


def _given(value: object) -> object:
    if value is None:
        raise complaint("has no value: give it one, or remove the key")
    return value


Given = BeforeValidator(_given)
"""For what may be left out: None is then its default, and still no value that a file may give."""


def exactly_one(*keys: str) -> dict[str, Any]:
    """Return the JSON Schema that asks for one of `keys`."""
    return {"oneOf": [{"required": [key]} for key in keys]}


def complaint(message: str, suggestion: str | None = None) -> PydanticCustomError:
    """Return the error for a validator to raise: `message` without the value, and what was probably meant."""
    return PydanticCustomError("value", "{text}", {"text": message, "suggestion": suggestion})
