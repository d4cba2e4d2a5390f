"""Where metrics go: the run directory's JSONL files, TensorBoard, Weights & Biases."""

import json
import uuid
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from genpolicy.errors import ConfigError
from genpolicy.training import storage
from genpolicy.training.run_directory import LogKind, RunDirectory

Phase = Literal["offline", "online"]
"""Whether the last step was an update on the dataset or a step in the environment."""


class Logger(Protocol):
    """Takes the metrics of a step; whoever makes one closes it."""

    def log(self, kind: LogKind, step: int, metrics: Mapping[str, float], *, phase: Phase = "offline") -> None:
        """Record `metrics` of training or evaluation after `step` steps, in a phase."""
        ...

    def close(self) -> None:
        """Write what is pending and release files and connections."""
        ...


class JsonlLogger:
    """One JSON object a line in train.jsonl and eval.jsonl; NaN and infinities as strings."""

    def __init__(self, run: RunDirectory):
        self._run = run

    def log(self, kind: LogKind, step: int, metrics: Mapping[str, float], *, phase: Phase = "offline") -> None:
        """Append one line ``{"step": ..., "phase": ..., metric: value, ...}``."""
        self._run.append(kind, {"step": step, "phase": phase, **metrics})

    def close(self) -> None:
        """Close the files."""
        self._run.close()


class TensorBoardLogger:
    """Event files in the run directory's folder ``tensorboard``.

    Raises:
        ConfigError: if TensorBoard is not installed.
    """

    def __init__(self, run: RunDirectory):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                'Logging to TensorBoard needs the extra "tensorboard": pip install "genpolicy[tensorboard]".'
            ) from error
        self._make = SummaryWriter
        self._directory = str(run.path / "tensorboard")
        self._writer: Any = None

    def log(self, kind: LogKind, step: int, metrics: Mapping[str, float], *, phase: Phase = "offline") -> None:
        """Add one scalar a metric; the first call hides the events that a resumed run logs again."""
        if self._writer is None:
            self._writer = self._make(self._directory, purge_step=step)
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        if self._writer is not None:
            self._writer.close()


class WandbLogger:
    """A Weights & Biases run; its id is kept in the run directory, so that resuming goes on in it.

    Args:
        run: the run directory; offline data lie in its folder ``wandb``.
        project: the W&B project.
        mode: "offline" needs neither network nor account; ``wandb sync`` uploads later.
        name: shown in W&B; the run directory's name by default.
        config: the resolved configuration, shown in W&B.

    Raises:
        ConfigError: if wandb is not installed or cannot start.
    """

    def __init__(
        self,
        run: RunDirectory,
        *,
        project: str = "genpolicy",
        mode: Literal["online", "offline", "disabled"] = "online",
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
    ):
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ConfigError('Logging to W&B needs the extra "wandb": pip install "genpolicy[wandb]".') from error
        try:
            self._wandb = wandb.init(
                project=project,
                name=name or run.path.name,
                id=_run_id(run),
                resume="allow",
                reinit="create_new",  # seeds that are trained together each have a run
                mode=mode,
                dir=str(run.path),
                config=dict(config or {}),
            )
        except wandb.Error as error:
            raise ConfigError(
                f"W&B did not start: {error} Log in with `wandb login`, or choose mode=offline and upload "
                "later with `wandb sync`."
            ) from error
        # Our own axis: W&B's counter refuses the steps that a resumed run logs again.
        self._wandb.define_metric("step")
        self._wandb.define_metric("*", step_metric="step")

    def log(self, kind: LogKind, step: int, metrics: Mapping[str, float], *, phase: Phase = "offline") -> None:
        """Send the metrics of a step."""
        self._wandb.log({**metrics, "step": step, "phase": phase})

    def close(self) -> None:
        """Send what is pending and end the W&B run."""
        self._wandb.finish()


def _run_id(run: RunDirectory) -> str:
    file = run.path / "wandb.json"
    if file.exists():
        try:
            return json.loads(file.read_bytes())["id"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{file} is damaged ({error}). Delete it to go on in a new W&B run.") from error
    identifier = uuid.uuid4().hex[:12]
    storage.write_atomic(file, storage.to_json({"id": identifier}))
    return identifier
