"""Hyperparameters as frozen dataclasses: types, defaults, ranges and a one-line meaning in one place.

A part's dataclass is the only source of its hyperparameters: Hydra's ConfigStore, the command line, the checks and
the documentation are made from it.
"""

import dataclasses
import types
import typing
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from genpolicy.errors import ConfigError, suggest


def option(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A dataclass field with its meaning and, for numbers, its range.

    Args:
        default: the value used when nobody chooses one; it is shared, so it must not be mutable.
        help: one line; unit and the paper's value where they exist.
        minimum: smallest allowed value (each entry of a sequence).
        maximum: largest allowed value.
        above: the value must be strictly larger than this.
        below: the value must be strictly smaller than this.
    """
    metadata = {"help": help, "minimum": minimum, "maximum": maximum, "above": above, "below": below}
    return dataclasses.field(default=default, metadata=metadata)


def slot(kind: str, default: Any, help: str) -> Any:
    """A field that holds the options of another registered part, chosen by name (``head.backbone=mlp``).

    Args:
        kind: the registry's kind, such as "backbone".
        default: the options that stand there when nobody chooses; their class must be registered.
        help: one line.
    """
    return dataclasses.field(default=default, metadata={"help": help, "slot": kind})


@dataclass(frozen=True)
class Options:
    """Base class of all hyperparameter dataclasses: checks types, choices and ranges when made.

    Raises:
        ConfigError: for the first value that does not fit, naming the field, the value and what is allowed.
    """

    def __post_init__(self) -> None:
        hints = type_hints(type(self))
        for field in dataclasses.fields(self):
            _check(type(self).__name__, field, hints[field.name], getattr(self, field.name))


@cache
def type_hints(cls: type[Options]) -> dict[str, Any]:
    """The types of a dataclass's fields; working them out takes longer than checking all values."""
    return typing.get_type_hints(cls)


def _check(owner: str, field: dataclasses.Field, hint: Any, value: Any) -> None:
    where = f"{owner}.{field.name}"
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            near = suggest(str(value), [str(choice) for choice in choices])
            raise ConfigError(f"{where} is {value!r}; allowed: {', '.join(map(repr, choices))}.{near}")
        return
    if not _has_type(hint, value):
        raise ConfigError(f"{where} is {value!r} of type {type(value).__name__}; it must be {describe_type(hint)}.")
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if number != number:
            raise ConfigError(f"{where} is NaN; give a number.")
        low, high, above, below = (field.metadata.get(key) for key in ("minimum", "maximum", "above", "below"))
        if low is not None and number < low:
            raise ConfigError(f"{where} is {number}; it must be at least {low}.")
        if above is not None and number <= above:
            raise ConfigError(f"{where} is {number}; it must be larger than {above}.")
        if below is not None and number >= below:
            raise ConfigError(f"{where} is {number}; it must be smaller than {below}.")
        if high is not None and number > high:
            raise ConfigError(f"{where} is {number}; it must be at most {high}.")


def _has_type(hint: Any, value: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_has_type(one, value) for one in typing.get_args(hint))
    if origin is tuple:
        (item, *_) = typing.get_args(hint)
        return isinstance(value, tuple) and all(_has_type(item, entry) for entry in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is Any:
        return True
    return isinstance(value, hint)


def describe_type(hint: Any) -> str:
    """A type hint in words for messages and tables, as in "int or none"."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        return " | ".join(map(str, typing.get_args(hint)))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(one) for one in typing.get_args(hint))
    if origin is tuple:
        return f"a list of {describe_type(typing.get_args(hint)[0])}"
    if hint is type(None):
        return "null"
    return getattr(hint, "__name__", str(hint))
