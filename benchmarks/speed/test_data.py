"""Time of drawing a batch, beside the update that uses it."""

import pytest
import torch
from torch.utils.benchmark import Timer

from benchmarks.speed.conftest import ACTION_DIM, OBSERVATION_DIM, make, transitions
from genpolicy.data import BatchSampler, TransitionDataset


@pytest.mark.parametrize("rows", [100_000, 1_000_000])
def test_sample_batch_of_256(benchmark, rows: int, threads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    ends = torch.zeros(rows, dtype=torch.bool)
    ends[999::1000] = True
    dataset = TransitionDataset.from_arrays(
        torch.randn(rows, OBSERVATION_DIM, generator=generator),
        2 * torch.rand(rows, ACTION_DIM, generator=generator) - 1,
        -torch.ones(rows),
        torch.ones(rows),
        ends,
        name="random",
    )
    sampler = BatchSampler(dataset, 256, discount=0.99)
    benchmark(sampler.sample)
    agent, batch = make(), transitions(256)
    agent.update(batch)
    seconds = Timer("agent.update(batch)", globals=locals(), num_threads=2).timeit(5).mean
    benchmark.extra_info["share of an eager paper-size update"] = f"{benchmark.stats['median'] / seconds:.2%}"
