"""Transitions stored once and sampled as batches of tensors.

A dataset is a sequence of episodes, each a run of rows. Row ``i`` holds a state, the action taken in it, and
the reward and mask of that state; the next observation is row ``i + 1``. The last row of an episode is a
state without a successor, so an episode of ``T + 1`` rows has ``T`` transitions; nothing is stored twice.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from genpolicy.data._validation import check_arrays, hash_arrays
from genpolicy.errors import CheckpointError, ConfigError
from genpolicy.recording import Replayed

if TYPE_CHECKING:
    from genpolicy.data.store import RowFile

ACTION_EPSILON = 1e-5
"""Clipped actions stay this far inside [-1, 1], as in the OGBench and FQL code."""

_STATISTICS_CHUNK = 1 << 13
_READERS = 8
"""Batches that are read from a disk at the same time: one alone would wait for each of its rows in turn."""


@dataclass(frozen=True, eq=False, repr=False)
class TransitionDataset:
    """Episodes of transitions as tensors on one device; made by `from_arrays`, which checks the arrays."""

    observations: Float32[Tensor, "rows *observation"] | UInt8[Tensor, "rows *observation"]
    """float32; images are uint8."""
    actions: Float32[Tensor, "rows action"]
    """Within [-1, 1]; the action of an episode's last row is never sampled."""
    rewards: Float32[Tensor, " rows"]
    masks: Float32[Tensor, " rows"]
    """0 where the task is done in the row's state (nothing to bootstrap from), else 1."""
    episode_ends: Int64[Tensor, " episodes"]
    """The index of each episode's last row, increasing."""
    name: str
    checksum: str
    """sha256 (hexadecimal) of the source file, or of the arrays if there is no file."""
    file: "RowFile | None" = None
    """The file that observations and actions are views of; None if they are in memory."""

    @classmethod
    def from_arrays(
        cls,
        observations: Any,
        actions: Any,
        rewards: Any,
        masks: Any,
        terminals: Any,
        *,
        name: str,
        clip_actions: bool = True,
        checksum: str | None = None,
        handed_over: bool = False,
    ) -> "TransitionDataset":
        """Check the arrays of a dataset and wrap them, without a copy where they are float32 already.

        Args:
            observations: (R, *O) states, finite; uint8 of three axes or more (images) are kept as they are.
            actions: (R, A) in [-1, 1], finite; an excess of at most 1e-5 is clipped silently.
            rewards: (R,) finite.
            masks: (R,) of 0 and 1; 0 where the task is done.
            terminals: (R,) of booleans, true at the last row of each episode and nowhere else.
            name: what messages call the dataset.
            clip_actions: whether to clip actions to [-1 + 1e-5, 1 - 1e-5] instead of [-1, 1].
            checksum: sha256 of the source file; computed from the arrays if not given.
            handed_over: whether the caller gives the arrays away, so that actions may be clipped in place.

        Raises:
            DataError: one message with everything that is wrong, with row numbers.
        """
        arrays, ends = check_arrays(
            {
                "observations": observations,
                "actions": actions,
                "rewards": rewards,
                "masks": masks,
                "terminals": terminals,
            },
            name=name,
            action_tolerance=ACTION_EPSILON,
        )
        checksum = checksum or hash_arrays(arrays)
        limit = 1.0 - ACTION_EPSILON if clip_actions else 1.0
        actions = arrays["actions"]
        if actions.min() < -limit or actions.max() > limit:
            arrays["actions"] = np.clip(actions, -limit, limit, out=actions if handed_over else None)
        observations, actions, rewards, masks = (
            torch.from_numpy(np.require(arrays[key], requirements=["C", "W"]))
            for key in ("observations", "actions", "rewards", "masks")
        )
        return cls(observations, actions, rewards, masks, torch.from_numpy(ends), name, checksum)

    def __len__(self) -> int:
        """The number of transitions: rows less one for each episode."""
        return len(self.rewards) - len(self.episode_ends)

    def __repr__(self) -> str:
        return f"TransitionDataset({self.name!r}, {len(self)} transitions, {self.num_episodes} episodes)"

    @property
    def num_episodes(self) -> int:
        """The number of episodes."""
        return len(self.episode_ends)

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """The shape of one observation."""
        return tuple(self.observations.shape[1:])

    @property
    def action_dim(self) -> int:
        """The number of action components."""
        return self.actions.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.observations.device

    def transition_rows(self) -> Int64[Tensor, " transitions"]:
        """The rows that have a successor, in order."""
        has_successor = torch.ones(len(self.rewards), dtype=torch.bool, device=self.device)
        has_successor[self.episode_ends] = False
        return has_successor.nonzero().squeeze(1)

    def observation_mean_std(self) -> tuple[Float[Tensor, "*observation"], Float[Tensor, "*observation"]]:
        """Mean and standard deviation (of the population) of the observations that transitions start from.

        Returns:
            Two float32 tensors of the observation's shape. The deviation of a constant component is 0.
        """
        if self.file is None:
            lasts = self.observations[self.episode_ends].double()
        else:
            lasts = self.file.read(self.episode_ends, 1)[0].double()
        total = -lasts.sum(0)
        for _, observations, _ in self._pieces():
            total += observations.double().sum(0)
        mean = total / len(self)
        squares = -(lasts - mean).square().sum(0)
        for _, observations, _ in self._pieces():
            squares += (observations.double() - mean).square().sum(0)
        return mean.float(), (squares / len(self)).clamp_min(0).sqrt().float()

    def _pieces(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """All rows, observations and actions, in pieces; those of a file are read into memory of their own."""
        pieces = None if self.file is None else self.file.pieces(_STATISTICS_CHUNK)
        for start in range(0, len(self.rewards), _STATISTICS_CHUNK):
            rows = slice(start, start + _STATISTICS_CHUNK)
            yield rows, *((self.observations[rows], self.actions[rows]) if pieces is None else next(pieces))

    def to(self, device: str | torch.device) -> "TransitionDataset":
        """Return the dataset with its tensors in the memory of `device`; itself if they are there already."""
        moved = {
            key: getattr(self, key).to(device)
            for key in ("observations", "actions", "rewards", "masks", "episode_ends")
        }
        if all(tensor is getattr(self, key) for key, tensor in moved.items()):
            return self
        return TransitionDataset(**moved, name=self.name, checksum=self.checksum)

    def summary(self) -> dict[str, Any]:
        """Counts, shapes and ranges of the transitions as plain numbers, strings and lists."""
        ends = self.episode_ends.cpu()
        lengths = torch.diff(ends, prepend=ends.new_tensor([-1])) - 1
        starts = torch.ones(len(self.rewards), dtype=torch.bool, device=self.device)
        starts[self.episode_ends] = False
        pieces = []
        for rows, _, actions in self._pieces():
            chosen = starts[rows]
            rewards, actions = self.rewards[rows][chosen], actions[chosen]
            if len(rewards):
                done = (self.masks[rows][chosen] == 0).sum()
                spread = rewards.min(), rewards.max(), rewards.double().sum(), actions.min(), actions.max(), done
                pieces.append(torch.stack([value.double() for value in spread]))
        lowest, highest, total, action_min, action_max, done = torch.stack(pieces, dim=1)
        return {
            "name": self.name,
            "rows": len(self.rewards),
            "transitions": len(self),
            "episodes": self.num_episodes,
            "episode_length": _spread(lengths),
            "observation_shape": list(self.observation_shape),
            "action_dim": self.action_dim,
            "action_range": [action_min.min().item(), action_max.max().item()],
            "rewards": {
                "min": lowest.min().item(),
                "mean": (total.sum() / len(self)).item(),
                "max": highest.max().item(),
                "terminations": int(done.sum()),
            },
            "checksum": self.checksum,
        }


class BatchSampler:
    """Uniform batches of n-step transitions, with replacement, from a generator of its own.

    For the transition that starts at row ``i``, with ``m = min(n_step, transitions left in the episode)``:

    - ``rewards``: sum over k < m of ``discount**k * reward[i + k]``, up to the first row whose mask is 0;
    - ``masks``: 0 if one of these m rows has mask 0, else 1;
    - ``discounts``: ``discount**m``, the factor of the value of the next observation;
    - ``next_observations``: row ``i + m``.

    With ``n_step=1`` these are the reward, the mask, the discount and row ``i + 1``. With ``action_chunk=h`` above 1,
    actions are those of the rows ``i .. i + h - 1``, (h, A), and only rows with h transitions left in their episode
    start one; next actions are those from row ``i + m`` on, repeating the episode's last one. With ``frame_stack=k``
    above 1, an observation is those of rows ``i - k + 1 .. i``, oldest first along the last axis, repeating the
    episode's first one where it has not as many; it is put together when it is drawn.

    A transition's row is computed when it is drawn; kept for each row are, with an `n_step` above 1, reward and mask.
    If the dataset is in a file these are computed when they are drawn too, and threads read the next batches before
    they are asked for; they are the same batches, and `state_dict` is that of the batch which `sample` returns next.

    Args:
        dataset: where to draw from; a copy of it is moved to `device` if it is not there, unless it is in a file: then
            batches are drawn on the CPU and moved.
        batch_size: transitions in a batch.
        discount: discount factor of one environment step, in [0, 1].
        n_step: how many rewards are summed before bootstrapping.
        action_chunk: how many consecutive actions count as one; at most `n_step`.
        frame_stack: how many consecutive observations count as one.
        device: where batches are made.
        seed: seed of the generator.

    Raises:
        ConfigError: if a number is out of its range, or no episode is as long as a chunk.
    """

    def __init__(
        self,
        dataset: TransitionDataset,
        batch_size: int,
        *,
        discount: float,
        n_step: int = 1,
        action_chunk: int = 1,
        frame_stack: int = 1,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ):
        for key, value in (("batch_size", batch_size), ("n_step", n_step), ("frame_stack", frame_stack)):
            if value < 1:
                raise ConfigError(f"{key} is {value}; it must be at least 1.")
        if not 0.0 <= discount <= 1.0:
            raise ConfigError(f"discount is {discount}; it must lie in [0, 1].")
        if not 1 <= action_chunk <= n_step:
            raise ConfigError(
                f"action_chunk is {action_chunk}; it must be at least 1 and at most n_step ({n_step}), "
                "so that the return covers the whole chunk."
            )
        self.dataset = dataset.to(device) if dataset.file is None else dataset
        self.device = torch.device(device)
        self.batch_size = batch_size
        home = self.dataset.device
        self._generator = torch.Generator(device=home).manual_seed(seed)
        self._ends = self.dataset.episode_ends
        firsts = torch.cat([self._ends.new_zeros(1), self._ends[:-1] + 1])
        starts = (self._ends - firsts + 1 - action_chunk).clamp(min=0)  # transitions that each episode starts
        self._stops = starts.cumsum(0)
        self._offsets = firsts - self._stops + starts
        # The episode of each transition: a search would wake other threads, which takes milliseconds on a busy machine.
        numbers = torch.arange(len(starts), dtype=torch.int32, device=home)
        self._episodes = numbers.repeat_interleave(starts) if dataset.file is None else None
        self._firsts, self._back = firsts, torch.arange(frame_stack - 1, -1, -1, device=home)
        self._count = int(starts.sum())
        if not self._count:
            raise ConfigError(
                f"action_chunk is {action_chunk}, but no episode of {dataset.name} has so many transitions; lower it."
            )
        self._steps, self._chunk = torch.arange(n_step, device=home), torch.arange(action_chunk, device=home)
        # Double precision (which Apple's GPUs lack), so that long sums are rounded once.
        precision = torch.float32 if home.type == "mps" else torch.float64
        self._discount = discount
        powers = torch.tensor([discount**k for k in range(n_step + 1)], dtype=torch.float64)
        self._weights, self._discounts = powers[:-1].to(home, precision), powers.float().to(home)
        self._rewards, self._masks = self._return_tables()
        self._make: Callable[[], dict[str, Tensor]] = lambda: self.gather(self._draw())
        if home.type == "cuda":
            self._make = Replayed(self._make, [self._generator])
        self._readers = None if dataset.file is None else ThreadPoolExecutor(_READERS, "genpolicy-reader")
        self._ahead: deque[tuple[Tensor, Future[dict[str, Tensor]]]] = deque()

    def __len__(self) -> int:
        """The number of transitions that batches are drawn from, and that `gather` numbers."""
        return self._count

    def sample(self) -> dict[str, Tensor]:
        """Draw a batch.

        Returns:
            observations and next_observations (B, *O) or, stacked, (B, ..., k O[-1]), actions and next_actions (B, A)
            or (B, h, A), rewards, masks and discounts (B,), newly allocated on the sampler's device; all float32, but
            images are uint8.
        """
        if self._readers is None:
            return self._make()
        while len(self._ahead) <= _READERS:
            state = self._generator.get_state()
            self._ahead.append((state, self._readers.submit(self.gather, self._draw())))
        return self._ahead.popleft()[1].result()

    def gather(self, transitions: Int64[Tensor, " batch"]) -> dict[str, Tensor]:
        """The batch of the given transitions, numbered from 0 in the dataset's order without those that start none."""
        data = self.dataset
        rows, firsts, ends = self._locate(transitions.to(data.device))
        if len(self._steps) == 1:  # a transition never starts at an episode's last row
            next_rows, discounts = rows + 1, torch.full(rows.shape, self._discount, device=rows.device)
        else:
            next_rows = torch.minimum(rows + len(self._steps), ends)
            discounts = self._discounts.index_select(0, next_rows - rows)
        if self._rewards is None or self._masks is None:
            rewards, masks = self._returns(rows, ends)
        else:
            rewards, masks = self._rewards.index_select(0, rows), self._masks.index_select(0, rows)
        observations, actions = data.observations, data.actions
        if data.file is not None:
            before = len(self._back) - 1
            observations, actions, shift = data.file.read(rows - before, before + len(self._steps) + len(self._chunk))
            rows, next_rows, firsts, ends = rows + shift, next_rows + shift, firsts + shift, ends + shift
        batch = {
            "observations": self._stacked(observations, rows, firsts),
            "actions": self._consecutive(actions, rows, ends),
            "next_observations": self._stacked(observations, next_rows, firsts),
            "next_actions": self._consecutive(actions, next_rows, ends),
            "rewards": rewards,
            "masks": masks,
            "discounts": discounts,
        }
        return batch if data.file is None else {key: value.to(self.device) for key, value in batch.items()}

    def _draw(self) -> Tensor:
        generator = self._generator
        return torch.randint(self._count, (self.batch_size,), generator=generator, device=generator.device)

    def _locate(self, transitions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The row that each transition starts at, and the first and the last row of its episode that it could reach."""
        if self._episodes is None:
            episodes = torch.searchsorted(self._stops, transitions, right=True)
        else:
            episodes = self._episodes.index_select(0, transitions)
        rows = transitions + self._offsets.index_select(0, episodes)
        if len(self._steps) == len(self._back) == 1:
            return rows, rows, rows + 1
        return rows, self._firsts.index_select(0, episodes), self._ends.index_select(0, episodes)

    def _returns(self, rows: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """Reward and mask of the transitions that start at `rows`, in episodes that end at `ends`."""
        reached = rows[:, None] + self._steps
        counted = reached < ends[:, None]
        reached = torch.minimum(reached, ends[:, None])  # beyond the end nothing counts
        masks = torch.where(counted, self.dataset.masks[reached], 1.0).cumprod(dim=1)
        before = torch.cat([torch.ones_like(masks[:, :1]), masks[:, :-1]], dim=1)
        # A running sum, so that the order of the additions, and with it the last bit, is always the same.
        rewards = (self._weights * (before * counted) * self.dataset.rewards[reached]).cumsum(dim=1)[:, -1]
        return rewards.float(), masks[:, -1]

    def _return_tables(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Reward and mask of each row, as far as they are in memory or fit there."""
        data = self.dataset
        if len(self._steps) == 1:
            return data.rewards, data.masks
        if data.file is not None:
            return None, None
        tables = torch.empty_like(data.rewards), torch.empty_like(data.masks)
        for rows in torch.arange(len(data.rewards), device=data.device).split(_STATISTICS_CHUNK):
            ends = self._ends[torch.searchsorted(self._ends, rows)]
            for table, values in zip(tables, self._returns(rows, ends), strict=True):
                table[rows] = values
        return tables

    def _stacked(self, observations: Tensor, rows: Tensor, firsts: Tensor) -> Tensor:
        """The observations of `rows`, one each or a stack, which repeats the episode's first one."""
        if len(self._back) == 1:
            return observations.index_select(0, rows)
        frames = torch.maximum(rows[:, None] - self._back, firsts[:, None])
        stack = observations.index_select(0, frames.flatten()).unflatten(0, frames.shape)
        return stack.movedim(1, -2).flatten(-2)

    def _consecutive(self, actions: Tensor, rows: Tensor, ends: Tensor) -> Tensor:
        """The actions from `rows` on, one each or a chunk, which repeats the episode's last one."""
        if len(self._chunk) == 1:
            return actions.index_select(0, rows)
        chosen = torch.minimum(rows[:, None] + self._chunk, ends[:, None])
        return actions.index_select(0, chosen.flatten()).unflatten(0, chosen.shape)

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the generator (uint8, on the CPU): all that decides which batches come next."""
        return {"generator": self._ahead[0][0] if self._ahead else self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on with the batches that follow a `state_dict`.

        Raises:
            CheckpointError: if the state has other entries, or is that of another kind of device's generator.
        """
        if set(state) != {"generator"}:
            raise CheckpointError(f"The sampler's state must be the entry 'generator', got {sorted(state)}.")
        try:
            self._generator.set_state(state["generator"].cpu())
            self._ahead.clear()
        except (RuntimeError, TypeError) as error:
            raise CheckpointError(
                f"The state of the sampler's generator does not fit '{self.dataset.device}': {error}. "
                "Resume on the kind of device that the run was started on."
            ) from error


def _spread(values: Tensor) -> dict[str, float | int]:
    return {"min": values.min().item(), "mean": values.double().mean().item(), "max": values.max().item()}
