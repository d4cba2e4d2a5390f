"""Engines by name."""

import contextlib
import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from genpolicy.bench.executors.base import Executor
from genpolicy.bench.executors.local import LocalExecutor, LocalOptions
from genpolicy.bench.executors.ray import RayExecutor, RayOptions
from genpolicy.bench.executors.slurm import SlurmExecutor, SlurmOptions
from genpolicy.errors import ConfigError, suggest

ENGINES = {
    "local": (LocalExecutor, LocalOptions),
    "ray": (RayExecutor, RayOptions),
    "slurm": (SlurmExecutor, SlurmOptions),
}
"""Executor and options of each engine."""


def make_executor(
    engine: str, *, workers: int | None = None, retries: int = 1, options: Mapping[str, str] | None = None
) -> Executor:
    """Return an engine.

    Args:
        engine: local, ray or slurm.
        workers: jobs at the same time; by default as many as fit.
        retries: how many times a job is tried again whose worker died.
        options: of the engine, as text: ``{"threads": "2"}``.

    Raises:
        ConfigError: for an unknown engine or option, a value that does not fit, or a missing package.
    """
    if engine not in ENGINES:
        raise ConfigError(f"There is no engine '{engine}'. Use {', '.join(ENGINES)}.{suggest(engine, ENGINES)}")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is {workers}; at least one is needed.")
    executor, options_class = ENGINES[engine]
    return executor(workers, retries, read_options(engine, options_class, options or {}))


def read_options(engine: str, options_class: type, given: Mapping[str, str]) -> Any:
    """Make an engine's options from text.

    Raises:
        ConfigError: for an unknown one (with the nearest ones), or a value that does not fit.
    """
    kinds = typing.get_type_hints(options_class)
    values: dict[str, Any] = {}
    further: dict[str, Any] = {}
    for name, text in given.items():
        if name in kinds and name != "further":
            values[name] = _read(engine, name, text, kinds[name])
        elif "further" in kinds:
            further[name] = _guess(text)
        else:
            known = [field.name for field in dataclasses.fields(options_class)]
            raise ConfigError(
                f"The engine '{engine}' has no option '{name}'. It has: {', '.join(known)}.{suggest(name, known)}"
            )
    return options_class(**values, **({"further": further} if further else {}))


def _read(engine: str, name: str, text: str, kind: Any) -> Any:
    kinds = typing.get_args(kind) or (kind,)
    if all(isinstance(one, str) for one in kinds):  # a Literal; the options check it
        return text
    for one in kinds:
        with contextlib.suppress(ValueError):
            if one is not type(None):
                return one(text)
            if text == "null":
                return None
    allowed = " or ".join("null" if one is type(None) else one.__name__ for one in kinds)
    raise ConfigError(f"{name}={text} does not fit the engine '{engine}': it is {allowed}.")


def _guess(text: str) -> Any:
    """A number if it looks like one; submitit checks the types of its own parameters."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
