"""What the training loop needs of the things it is given, as Protocols."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor


class Settings(Protocol):
    """The part of the trainer's configuration that the loop reads; an interval of 0 is off."""

    @property
    def steps(self) -> int:
        """Updates of the main phase."""
        ...

    @property
    def pretrain_steps(self) -> int:
        """Updates before the main phase; the agent knows what to do in them by its own step."""
        ...

    @property
    def online_steps(self) -> int:
        """Environment steps of the online phase, which comes last."""
        ...

    @property
    def log_every(self) -> int:
        """Steps between two lines of train.jsonl."""
        ...

    @property
    def eval_every(self) -> int:
        """Steps between two evaluations."""
        ...

    @property
    def checkpoint_every(self) -> int:
        """Steps between two checkpoints."""
        ...


class Stateful(Protocol):
    """Something whose whole state is a flat mapping of tensors."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the next call depends on, generators included."""
        ...

    def load_state_dict(self, state: dict[str, Tensor], /) -> Any:
        """Take over a state, given on the CPU."""
        ...


class TrainableAgent(Stateful, Protocol):
    """An agent as the loop sees it."""

    @property
    def step(self) -> int:
        """Updates done."""
        ...

    def update(self, batch: dict[str, Tensor], /) -> Mapping[str, Tensor]:
        """Do one update and return 0-d detached tensors; losses are named ``...loss``."""
        ...

    def evaluate_losses(self, batch: dict[str, Tensor], /) -> Mapping[str, Tensor]:
        """Return the losses on held-out transitions; changes nothing that training depends on."""
        ...

    def act(self, observation: Any, generator: Any = None, /) -> Any:
        """Return the actions for n observations, with n generators."""
        ...


class Sampler(Stateful, Protocol):
    """A source of batches."""

    def sample(self) -> dict[str, Tensor]:
        """Return the next batch."""
        ...


class OnlinePhase(Stateful, Protocol):
    """The online phase as the loop sees it; it has the loop's agent and sampler."""

    @property
    def steps(self) -> int:
        """Environment steps done."""
        ...

    def advance(self) -> Mapping[str, Tensor]:
        """Do one environment step and its updates, and return the metrics of the last ones, if any."""
        ...

    def metrics(self) -> Mapping[str, float]:
        """What the episodes show."""
        ...


class PolicyEvaluator(Protocol):
    """Scores a policy in the simulator; the result depends on the policy, its own seed and `step` only."""

    def evaluate(self, act: Callable, *, step: int, progress: Callable[[int, int], None] | None = None) -> Any:
        """Return an object with ``metrics() -> dict[str, float]``; exceptions of `act` pass through."""
        ...


class Progress(Protocol):
    """Shows how far a run is."""

    def update(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Take note of a step and of the metrics logged last; called after each step."""
        ...

    def evaluation(self, done: int, total: int) -> None:
        """Take note of the finished episodes of an evaluation."""
        ...
