import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from genpolicy.errors import ConfigError
from genpolicy.options import Options, describe_type, option


@dataclass(frozen=True)
class Sample(Options):
    count: int = option(1, "a count", minimum=1, maximum=10)
    rate: float = option(0.5, "a rate", above=0)
    limit: int | None = option(None, "a limit", minimum=2)
    mode: Literal["fast", "slow"] = option("fast", "a mode")
    widths: tuple[int, ...] = option((8, 8), "widths", minimum=1)
    flag: bool = option(False, "a flag")
    name: str = option("x", "a name")
    anything: Any = option(None, "anything")
    either: int | str = option(1, "either")


GOOD = [
    ("count", 10),
    ("rate", 1),
    ("rate", 1e-9),
    ("limit", None),
    ("limit", 2),
    ("mode", "slow"),
    ("widths", ()),
    ("widths", (1, 2, 3)),
    ("flag", True),
    ("anything", object),
    ("either", "text"),
]


@pytest.mark.parametrize(("field", "value"), GOOD)
def test_allowed_values_are_kept_as_they_are(field: str, value: Any) -> None:
    assert getattr(Sample(**{field: value}), field) is value


BAD = [
    ("count", "3", "Sample.count is '3' of type str; it must be int."),
    ("count", 3.0, "Sample.count is 3.0 of type float; it must be int."),
    ("count", True, "Sample.count is True of type bool; it must be int."),
    ("count", None, "Sample.count is None of type NoneType; it must be int."),
    ("count", 0, "Sample.count is 0; it must be at least 1."),
    ("count", 11, "Sample.count is 11; it must be at most 10."),
    ("rate", "high", "Sample.rate is 'high' of type str; it must be float."),
    ("rate", True, "Sample.rate is True of type bool; it must be float."),
    ("rate", 0, "Sample.rate is 0; it must be larger than 0."),
    ("rate", float("nan"), "Sample.rate is NaN; give a number."),
    ("limit", 1, "Sample.limit is 1; it must be at least 2."),
    ("limit", 2.5, "Sample.limit is 2.5 of type float; it must be int or null."),
    ("mode", "slwo", "Sample.mode is 'slwo'; allowed: 'fast', 'slow'. Did you mean 'slow'?"),
    ("mode", None, "Sample.mode is None; allowed: 'fast', 'slow'."),
    ("widths", [8, 8], "Sample.widths is [8, 8] of type list; it must be a list of int."),
    ("widths", 8, "Sample.widths is 8 of type int; it must be a list of int."),
    ("widths", (8, "8"), "Sample.widths is (8, '8') of type tuple; it must be a list of int."),
    ("widths", (8, 0), "Sample.widths is 0; it must be at least 1."),
    ("flag", 1, "Sample.flag is 1 of type int; it must be bool."),
    ("name", 1, "Sample.name is 1 of type int; it must be str."),
    ("either", 1.5, "Sample.either is 1.5 of type float; it must be int or str."),
]


@pytest.mark.parametrize(("field", "value", "message"), BAD)
def test_refusal_names_field_value_and_what_is_allowed(field: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Sample(**{field: value})
    assert str(caught.value) == message


def test_checks_hold_for_replaced_values_and_inherited_fields() -> None:
    @dataclass(frozen=True)
    class Child(Sample):
        extra: int = option(3, "more", minimum=3)

    assert dataclasses.replace(Child(), count=2) == Child(count=2)
    with pytest.raises(ConfigError, match=r"Child\.count is 0"):
        dataclasses.replace(Child(), count=0)
    with pytest.raises(ConfigError, match=r"Child\.extra is 2"):
        Child(extra=2)


def test_defaults_are_checked_as_well() -> None:
    @dataclass(frozen=True)
    class Wrong(Options):
        size: int = option(0, "a size", minimum=1)

    with pytest.raises(ConfigError, match=r"Wrong\.size is 0"):
        Wrong()


def test_options_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Sample().count = 3


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "int"),
        (int | None, "int or null"),
        (tuple[int, ...], "a list of int"),
        (Literal["a", "b"], "a | b"),
    ],
)
def test_types_in_words(hint: Any, words: str) -> None:
    assert describe_type(hint) == words
