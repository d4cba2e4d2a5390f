"""No dead keys: every hyperparameter is read by something besides its own checks.

Options of parts are watched while agents with all parts learn and act, once with every choice of every option that
may guard another. Options of a run (trainer, data, loggers) are looked for in the source of what reads them.
"""

import ast
import contextlib
import dataclasses
import inspect
import itertools
import sys
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import genpolicy
from genpolicy.compatibility import Parts, find_refusal
from genpolicy.config import DataConfig, LoggingConfig, RunConfig, TrainerConfig
from genpolicy.critics import TDConfig
from genpolicy.critics.base import CriticConfig
from genpolicy.errors import ConfigError
from genpolicy.heads import GaussianConfig, GaussianHead
from genpolicy.networks import MLPConfig
from genpolicy.options import Options, option
from genpolicy.policies import BCScheduleConfig
from genpolicy.registry import BACKBONES, CRITICS, HEADS, POLICIES
from genpolicy.training.agent import AgentConfig
from genpolicy.training.assembly import build_agent
from genpolicy.training.online import OnlineConfig
from genpolicy.training.optimizer import OptimizerConfig
from tests.helpers import ACTION_DIM, OBSERVATION_DIM, raw_batch

SMALL = {"hidden_dims": (8,), "width": 8, "depth": 1, "time_features": 4, "interval": 1, "num_candidates": 2}
NOT_READING = {"genpolicy.options", "genpolicy.config", "genpolicy.listing"}
READ_BY_THE_RUN = {(CriticConfig, "n_step")}
PARTS = (HEADS, CRITICS, POLICIES, BACKBONES)
PREFERRED = (GaussianConfig, TDConfig, POLICIES["q_gradient"].config)


def small(cls: type[Options], **values: Any) -> Any:
    names = {field.name for field in dataclasses.fields(cls)}
    return cls(**{name: value for name, value in SMALL.items() if name in names} | values)


def alternatives(field: dataclasses.Field, hint: Any) -> list[Any]:
    """Other values of one option, of which any may switch on code that reads further options."""
    if "slot" in field.metadata:
        parts = next(registry for registry in PARTS if registry.kind == field.metadata["slot"])
        return [one for entry in parts.entries() for one in variants(entry.config)]
    if isinstance(field.default, Options):
        return variants(type(field.default))
    if typing.get_origin(hint) is Literal:
        return list(typing.get_args(hint))
    if isinstance(field.default, bool):
        return [True, False]
    if field.default is None or field.default == 0.0:
        return [field.metadata.get("maximum") or 2]
    return []


def variants(cls: type[Options]) -> list[Options]:
    """The small options of a class, and one for each other value of each field."""
    hints = typing.get_type_hints(cls)
    found = [small(cls)]
    for field in dataclasses.fields(cls):
        for value in alternatives(field, hints[field.name]):
            with contextlib.suppress(ConfigError):  # a choice that another option's default rules out
                found.append(small(cls, **{field.name: value}))
    return found


def work(config: RunConfig) -> None:
    """Everything that an agent does: update with and without discounts, validate, act."""
    agent = build_agent(config, observation_shape=(OBSERVATION_DIM,), action_dim=ACTION_DIM)
    batch = raw_batch(4)
    for _ in range(3):
        agent.update(batch)
    batch.pop("discounts")
    agent.evaluate_losses(batch)
    agent.act(np.zeros((2, OBSERVATION_DIM)))


SLOTS = {"head": HEADS, "critic": CRITICS, "policy": POLICIES}


def with_companions(slot: str, options: Options) -> RunConfig | None:
    """A run with these options in a slot and, in the others, the first parts that go with them."""
    choices = {
        name: [options]
        if name == slot
        else sorted((small(entry.config) for entry in registry.entries()), key=lambda one: type(one) not in PREFERRED)
        for name, registry in SLOTS.items()
    }
    for head, critic, policy in itertools.product(*choices.values()):
        if find_refusal(Parts.of(head, critic, policy)) is None:
            return RunConfig(head=head, critic=critic, policy=policy)
    return None


def configurations() -> Iterator[RunConfig]:
    for slot, registry in SLOTS.items():
        for entry in registry.entries():
            runs = [run for options in variants(entry.config) if (run := with_companions(slot, options))]
            assert runs, f"{registry.kind} {entry.name} goes with nothing"
            yield from runs
    for options in (*variants(AgentConfig), AgentConfig(policy_every=2)):
        yield RunConfig(
            head=small(GaussianConfig, backbone=small(MLPConfig)),
            critic=small(TDConfig),
            policy=small(POLICIES["q_gradient"].config),
            agent=options,
        )


def owner(cls: type, name: str) -> type:
    """The class that declares a field, so that an inherited option needs to be read by one heir only."""
    return next(base for base in cls.__mro__ if name in inspect.get_annotations(base))


def declared() -> set[tuple[type, str]]:
    classes = [entry.config for registry in PARTS for entry in registry.entries()]
    classes += [AgentConfig, OptimizerConfig, BCScheduleConfig]
    return {(owner(cls, field.name), field.name) for cls in classes for field in dataclasses.fields(cls)}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> set[tuple[type, str]]:
    """Filled with (class, field) when code of the library, other than the configuration's own, reads an option."""
    seen: set[tuple[type, str]] = set()

    def recording(self: Options, name: str) -> Any:
        value = object.__getattribute__(self, name)
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if not name.startswith("_") and caller.startswith("genpolicy.") and caller not in NOT_READING:
            seen.add((owner(type(self), name), name))
        return value

    monkeypatch.setattr(Options, "__getattribute__", recording, raising=False)
    return seen


def names(fields: set[tuple[type, str]]) -> list[str]:
    return sorted(f"{cls.__name__}.{name}" for cls, name in fields)


def test_every_option_of_every_part_is_read(reads: set[tuple[type, str]]) -> None:
    for config in configurations():
        work(config)
    assert names(declared() - reads - READ_BY_THE_RUN) == []


def test_a_dead_option_is_noticed(reads: set[tuple[type, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class WithDeadOption(GaussianConfig):
        dead: float = option(1.0, "read by nobody")

    class Head(GaussianHead):
        """A head with a dead option."""

    monkeypatch.setattr(HEADS, "_entries", dict(HEADS._entries))
    HEADS.register("with_dead_option", config=WithDeadOption)(Head)
    config = next(config for config in configurations() if type(config.head) is WithDeadOption)
    work(config)
    assert (WithDeadOption, "dead") in declared() - reads
    assert (GaussianConfig, "std") in declared() & reads


# Options of a run

TRAINING = ("assembly", "online", "run", "trainer")
READERS = ("config.py", "cli/__init__.py", *(f"training/{name}.py" for name in TRAINING))


def attributes_read() -> set[str]:
    """Names `x` of all `something.x` (not called) in the modules that read a run's options."""
    found = set()
    for name in READERS:
        nodes = list(ast.walk(ast.parse((Path(genpolicy.__file__).parent / name).read_text())))
        called = {node.func for node in nodes if isinstance(node, ast.Call)}
        found |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and node not in called}
    return found


@pytest.mark.parametrize("cls", [RunConfig, TrainerConfig, OnlineConfig, DataConfig, LoggingConfig])
def test_every_option_of_a_run_is_read(cls: type[Options]) -> None:
    assert {field.name for field in dataclasses.fields(cls)} - attributes_read() == set()


def test_options_of_parts_that_the_run_reads_are_read_there() -> None:
    assert {name for _, name in READ_BY_THE_RUN} <= attributes_read()
