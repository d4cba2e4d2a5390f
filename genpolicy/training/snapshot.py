"""What a run's checkpoint is made of: the state of agent and samplers, and the environment that wrote it."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genpolicy.errors import CheckpointError
from genpolicy.training import checkpoint, provenance
from genpolicy.training.interfaces import Stateful

logger = logging.getLogger(__name__)

Parts = Mapping[str, Stateful | None]
"""The things whose state a checkpoint holds, by the prefix of their tensors; None where a run has none."""


def gather(parts: Parts) -> dict[str, Tensor]:
    """Return the tensors of all parts, named ``part/tensor``."""
    return {
        f"{name}/{key}": tensor
        for name, part in parts.items()
        if part is not None
        for key, tensor in part.state_dict().items()
    }


def distribute(tensors: Mapping[str, Tensor], parts: Parts, *, config_file: Path) -> None:
    """Give each part its tensors.

    Raises:
        CheckpointError: if the checkpoint holds other parts; `config_file` is named as the way out.
    """
    for name, part in parts.items():
        stored = checkpoint.section(tensors, name)
        if (part is not None) != bool(stored):
            checkpoint_has, run_has = ("has", "lacks") if stored else ("lacks", "has")
            raise CheckpointError(
                f"The checkpoint {checkpoint_has} the state of the {name}, this configuration {run_has} it. "
                f"Resume with the configuration in {config_file}."
            )
        if part is not None:
            part.load_state_dict(stored)


def environment() -> dict[str, Any]:
    """Return the versions and numbers that decide whether a resumed run goes on bit for bit."""
    versions = {name: provenance.version(name) for name in ("genpolicy", "torch")}
    return versions | {"threads": torch.get_num_threads()}


def warn_of_other_environment(written: Mapping[str, Any]) -> None:
    """Log a warning for each value that is not the one a checkpoint was written with."""
    for name, now in environment().items():
        if written.get(name) != now:
            logger.warning(
                "The checkpoint was written with %s %s and this is %s: the run goes on, but not bit for bit.",
                name,
                written.get(name),
                now,
            )
