"""Stacks of frames are put together when they are drawn."""

import numpy as np
import pytest
import torch

from genpolicy.data import BatchSampler, TransitionDataset
from genpolicy.errors import ConfigError

LENGTHS = (7, 2, 12, 3)  # rows of the episodes


def dataset(shape: tuple[int, ...] = (2, 3, 3), dtype: type = np.uint8) -> TransitionDataset:
    generator = np.random.default_rng(0)
    rows = sum(LENGTHS)
    terminals = np.zeros(rows, bool)
    terminals[np.cumsum(LENGTHS) - 1] = True
    return TransitionDataset.from_arrays(
        generator.integers(256, size=(rows, *shape)).astype(dtype),
        generator.uniform(-0.9, 0.9, size=(rows, 2)),
        generator.normal(size=rows),
        generator.random(rows) > 0.25,
        terminals,
        name="toy",
    )


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("frame_stack", [1, 2, 4])
@pytest.mark.parametrize(("shape", "dtype"), [((2, 3, 3), np.uint8), ((4,), np.float32)])
def test_stacks_agree_with_a_plain_loop(shape: tuple[int, ...], dtype: type, frame_stack: int, n_step: int) -> None:
    data = dataset(shape, dtype)
    sampler = BatchSampler(data, 4, discount=0.9, n_step=n_step, frame_stack=frame_stack)
    batch, plain = (
        one.gather(torch.arange(len(data))) for one in (sampler, BatchSampler(data, 4, discount=0.9, n_step=n_step))
    )
    rows = data.observations.numpy()
    expected: dict[str, list[np.ndarray]] = {"observations": [], "next_observations": []}
    first = 0
    for length in LENGTHS:
        last = first + length - 1
        for row in range(first, last):
            for key, at in (("observations", row), ("next_observations", min(row + n_step, last))):
                seen = [rows[max(at - back, first)] for back in reversed(range(frame_stack))]
                expected[key].append(np.concatenate(seen, axis=-1))
        first += length
    for key, value in batch.items():
        assert np.array_equal(value.numpy(), np.stack(expected[key]) if key in expected else plain[key].numpy())
    assert batch["observations"].shape == (len(data), *shape[:-1], frame_stack * shape[-1])
    assert batch["observations"].dtype == data.observations.dtype


def test_frames_are_stored_once() -> None:
    data = dataset()
    sampler = BatchSampler(data, 5, discount=0.9, frame_stack=3)
    assert sampler.dataset is data
    tables = [value for value in vars(sampler).values() if isinstance(value, torch.Tensor)]
    assert sum(table.numel() for table in tables) < data.observations.numel()
    assert sampler.sample()["observations"].shape == (5, 2, 3, 9)


def test_a_stack_of_no_frame_is_refused() -> None:
    with pytest.raises(ConfigError, match="frame_stack is 0; it must be at least 1"):
        BatchSampler(dataset(), 4, discount=0.9, frame_stack=0)
