"""Transitions that arrive one by one while an agent acts, and batches of them beside those of a dataset."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from genpolicy.data.dataset import BatchSampler
from genpolicy.errors import CheckpointError, ConfigError

Sampling = Literal["append", "balanced", "online"]
"""Which transitions a batch is drawn from: all alike, half dataset and half online, or online ones alone."""

_FIRST_CAPACITY = 1 << 10
_OPEN = torch.iinfo(torch.int64).max


class EpisodeStore:
    """Episodes in the order in which they happen, in the layout of a `TransitionDataset`, grown as needed.

    A transition can be drawn as soon as it is added, also from the episode that still runs: until its end is known it
    counts as ending at its newest row, so that an n-step return sums the rewards that there are and bootstraps from
    the newest observation. An episode that is cut off by a time limit is `end`-ed after a transition with mask 1.

    Args:
        observation_shape: of one observation.
        action_dim: A.
        discount: discount factor of one environment step.
        n_step: as in `BatchSampler`.
        action_chunk: as in `BatchSampler`.
        device: where the tensors are.
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        action_dim: int,
        *,
        discount: float,
        n_step: int = 1,
        action_chunk: int = 1,
        device: str | torch.device = "cpu",
    ):
        self.device = torch.device(device)
        self.discount = discount
        self._steps = torch.arange(n_step, device=self.device)
        self._chunk = torch.arange(action_chunk, device=self.device)
        self._rows = self._transitions = 0
        self._first: int | None = None  # row of the running episode
        self._columns = {
            "observations": torch.zeros(_FIRST_CAPACITY, *observation_shape, device=self.device),
            "actions": torch.zeros(_FIRST_CAPACITY, action_dim, device=self.device),
            "rewards": torch.zeros(_FIRST_CAPACITY, device=self.device),
            "masks": torch.zeros(_FIRST_CAPACITY, device=self.device),
            "ends": torch.zeros(_FIRST_CAPACITY, dtype=torch.int64, device=self.device),
            "starts": torch.zeros(_FIRST_CAPACITY, dtype=torch.int64, device=self.device),
        }

    def __len__(self) -> int:
        """The number of transitions that can be drawn: with chunks of h actions, those with h of their episode."""
        return self._transitions

    @property
    def running(self) -> bool:
        """Whether an episode has begun and not ended."""
        return self._first is not None

    def begin(self, observation: Any) -> None:
        """Begin an episode at an observation (\\*O); one that still runs ends."""
        self.end()
        self._first = self._rows
        self._append(observation)

    def add(self, action: Any, reward: float, mask: float, next_observation: Any) -> None:
        """Add a transition to the running episode.

        Args:
            action: (A,) in [-1, 1].
            reward: of the transition.
            mask: 0 if the task is done and nothing is to be bootstrapped, else 1; a time limit is no end of the task.
            next_observation: (\\*O).
        """
        assert self._first is not None
        self._append(next_observation)
        row, columns = self._rows - 2, self._columns
        # The newest row has no action yet; a next action there repeats the one before.
        columns["actions"][row : row + 2] = torch.as_tensor(action)
        columns["rewards"][row] = reward
        columns["masks"][row] = mask
        start = self._rows - 1 - len(self._chunk)
        if start >= self._first:
            columns["starts"][self._transitions] = start
            self._transitions += 1

    def end(self) -> None:
        """End the running episode, if any."""
        if self._first is not None:
            self._columns["ends"][self._first : self._rows] = self._rows - 1
        self._first = None

    def running_episode(self) -> tuple[Float32[Tensor, "steps A"], Float32[Tensor, "*observation"]]:
        """The actions taken so far in the running episode, and its newest observation."""
        assert self._first is not None
        return self._columns["actions"][self._first : self._rows - 1], self._columns["observations"][self._rows - 1]

    def gather(self, transitions: Int64[Tensor, " batch"]) -> dict[str, Tensor]:
        """The batch of the given transitions, numbered from 0 in the order of their addition.

        Returns:
            As `BatchSampler.sample` does.
        """
        columns = self._columns
        rows = columns["starts"][transitions]
        ends = columns["ends"][rows].clamp(max=self._rows - 1)
        reached = rows[:, None] + self._steps
        counted = reached < ends[:, None]
        reached = torch.minimum(reached, ends[:, None])
        # Double precision, so that n_step = 1 is exact and long sums are rounded once.
        masks = torch.where(counted, columns["masks"][reached].double(), 1.0).cumprod(dim=1)
        alive = torch.cat([torch.ones_like(masks[:, :1]), masks[:, :-1]], dim=1) * counted
        powers = torch.as_tensor(self.discount, dtype=torch.float64, device=self.device)
        rewards = (powers**self._steps * alive * columns["rewards"][reached]).sum(dim=1)
        steps = counted.sum(dim=1)
        return {
            "observations": columns["observations"][rows],
            "actions": self._actions_from(rows, ends),
            "next_observations": columns["observations"][rows + steps],
            "next_actions": self._actions_from(rows + steps, ends),
            "rewards": rewards.float(),
            "masks": masks[:, -1].float(),
            "discounts": (powers**steps).float(),
        }

    def state_dict(self) -> dict[str, Tensor]:
        """All rows, and how many of them are what."""
        columns = {name: column[: self._rows] for name, column in self._columns.items() if name != "starts"}
        first = -1 if self._first is None else self._first
        return columns | {
            "starts": self._columns["starts"][: self._transitions],
            "running": torch.tensor(first),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            CheckpointError: if the state is that of other observations or actions.
        """
        if set(state) != {*self._columns, "running"}:
            raise CheckpointError(f"The replay's state must be {sorted({*self._columns, 'running'})}: {sorted(state)}.")
        for name, column in self._columns.items():
            if state[name].shape[1:] != column.shape[1:]:
                raise CheckpointError(
                    f"The checkpoint's replay holds {name} of shape {tuple(state[name].shape[1:])}, this run's are "
                    f"{tuple(column.shape[1:])}. Resume with the configuration that the run was started with."
                )
        self._rows, self._transitions = len(state["rewards"]), len(state["starts"])
        first = int(state["running"])
        self._first = None if first < 0 else first
        for name, column in self._columns.items():
            stored = state[name].to(self.device)
            self._columns[name] = column.new_zeros(max(_FIRST_CAPACITY, self._rows), *column.shape[1:])
            self._columns[name][: len(stored)] = stored

    def _append(self, observation: Any) -> None:
        if self._rows == len(self._columns["rewards"]):
            self._columns = {
                name: torch.cat([column, torch.zeros_like(column)]) for name, column in self._columns.items()
            }
        self._columns["observations"][self._rows] = torch.as_tensor(observation)
        self._columns["ends"][self._rows] = _OPEN
        self._rows += 1

    def _actions_from(self, rows: Tensor, ends: Tensor) -> Tensor:
        actions = self._columns["actions"]
        if len(self._chunk) == 1:
            return actions[rows]
        return actions[torch.minimum(rows[:, None] + self._chunk, ends[:, None])]


class ReplaySampler:
    """Batches of offline and online transitions, from a generator of its own.

    - ``append``: uniform over all transitions, those of the dataset and those added since, as in FQL's code;
    - ``balanced``: half from the dataset, half from the online ones (RLPD, arXiv:2302.02948, "symmetric sampling");
    - ``online``: online ones alone.

    As long as there is no online transition, batches are the dataset's, the very ones that `offline` would draw.

    Args:
        store: the online transitions.
        offline: draws from the dataset; None without one.
        batch_size: transitions in a batch.
        sampling: see above; without a dataset only ``online``.
        seed: seed of the generator.

    Raises:
        ConfigError: if `sampling` needs a dataset, or a balanced batch has no two halves.
    """

    def __init__(
        self,
        store: EpisodeStore,
        offline: BatchSampler | None,
        batch_size: int,
        *,
        sampling: Sampling = "append",
        seed: int = 0,
    ):
        if offline is None and sampling != "online":
            raise ConfigError(f"online.sampling is {sampling}, but there is no dataset; use online.sampling=online.")
        if sampling == "balanced" and batch_size < 2:
            raise ConfigError(
                f"batch_size is {batch_size}; a batch that is half offline and half online has 2 or more."
            )
        self.store = store
        self.offline = offline
        self.batch_size = batch_size
        self.sampling = sampling
        # On the CPU: how many rows come from where decides the shapes of what the device computes.
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def ready(self) -> bool:
        """Whether there is anything to draw."""
        return len(self.store) > 0 or self.offline is not None

    def sample(self) -> dict[str, Tensor]:
        """Draw a batch; as `BatchSampler.sample`, the offline rows first."""
        offline, fresh = self.offline, len(self.store)
        if offline is None:
            return self.store.gather(self._choose(fresh, self.batch_size))
        if not fresh:
            return offline.sample()
        if self.sampling == "online":
            return self.store.gather(self._choose(fresh, self.batch_size))
        if self.sampling == "balanced":
            half = self.batch_size // 2
            old, new = self._choose(len(offline), self.batch_size - half), self._choose(fresh, half)
        else:
            chosen = self._choose(len(offline) + fresh, self.batch_size)
            old, new = chosen[chosen < len(offline)], chosen[chosen >= len(offline)] - len(offline)
        parts = offline.gather(old), self.store.gather(new)
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def state_dict(self) -> dict[str, Tensor]:
        """The generators and all online transitions."""
        state = {"generator": self._generator.get_state()}
        if self.offline is not None:
            state |= {f"offline.{name}": tensor for name, tensor in self.offline.state_dict().items()}
        return state | {f"store.{name}": tensor for name, tensor in self.store.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on with the batches that follow a `state_dict`.

        Raises:
            CheckpointError: if the state is not that of such a sampler.
        """
        if "generator" not in state:
            raise CheckpointError(f"The replay's state must have the entry 'generator', got {sorted(state)}.")
        if self.offline is not None:
            self.offline.load_state_dict(_section(state, "offline."))
        self.store.load_state_dict(_section(state, "store."))
        self._generator.set_state(state["generator"].cpu())

    def _choose(self, among: int, count: int) -> Tensor:
        return torch.randint(among, (count,), generator=self._generator).to(self.store.device)


def _section(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
