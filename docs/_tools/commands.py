"""The page of the command line: what ``--help`` says, read from the same declarations."""

import enum
import inspect
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType
from typing import Any

import typer
from typer.models import ArgumentInfo, OptionInfo, ParameterInfo

from genpolicy.cli import app

TYPES = {str: "text", int: "whole number", float: "number", Path: "path", bool: "flag"}


def commands(table: Callable[..., str]) -> str:
    """A section for every command: what it does, how it is called, its arguments and options."""
    return "\n\n".join(_section(name, function, table) for name, function in _commands(app, "genpolicy"))


def _commands(group: typer.Typer, prefix: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Name and function of every command, in the order of ``--help``."""
    for command in group.registered_commands:
        assert command.callback is not None
        yield f"{prefix} {command.name or command.callback.__name__}", command.callback
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from _commands(inner.typer_instance, f"{prefix} {inner.name}")


def _section(name: str, function: Callable[..., Any], table: Callable[..., str]) -> str:
    hints = typing.get_type_hints(function, include_extras=True)
    rows, usage = [], [name]
    for parameter in inspect.signature(function).parameters.values():
        hint, info = typing.get_args(hints[parameter.name])
        required = parameter.default is inspect.Parameter.empty
        shown = "" if required or not info.show_default else _default(parameter.default)
        if isinstance(info, ArgumentInfo):
            label = parameter.name.upper()
            many = "..." if list in {typing.get_origin(one) for one in (hint, *typing.get_args(hint))} else ""
            usage.append(f"{label}{many}" if required else f"[{label}]{many}")
        else:
            label = _flags(parameter.name, info)
        rows.append((f"`{label}`", _type(hint, info), shown, info.help))
    if any(row[0].startswith("`--") for row in rows):
        usage.insert(1, "[OPTIONS]")
    parts = [f"## `{name}`", inspect.getdoc(function), f"```text\n{' '.join(usage)}\n```"]
    if rows:
        parts.append(table(("argument or option", "takes", "default", "meaning"), rows))
    return "\n\n".join(map(str, parts))


def _flags(name: str, info: OptionInfo) -> str:
    """How an option is written, as in ``--workers`` or ``--report/--no-report``."""
    declared = [one for one in (info.default, *(info.param_decls or ())) if isinstance(one, str)]
    return declared[0] if declared else f"--{name.replace('_', '-')}"


def _type(hint: Any, info: ParameterInfo) -> str:
    """What a value may be, in words."""
    inner = [one for one in typing.get_args(hint) if one is not NoneType]
    if typing.get_origin(hint) is list:
        return f"{_type(inner[0], info)}, repeatable"
    if inner:
        return _type(inner[0], info)
    if isinstance(hint, enum.EnumType):
        return ", ".join(f"`{member.value}`" for member in typing.cast("type[enum.Enum]", hint))
    return TYPES[hint] + ("" if info.min is None else f", at least {info.min:g}")


def _default(value: Any) -> str:
    if value is None or value is False:
        return ""
    return "on" if value is True else f"`{value}`"
