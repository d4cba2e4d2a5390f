"""Time of choosing actions."""

import numpy as np
import pytest
import torch

from benchmarks.speed.conftest import OBSERVATION_DIM, make


@pytest.mark.parametrize("rows", [1, 50])
@pytest.mark.parametrize("preset", ["small", "paper"])
def test_act(benchmark, preset: str, rows: int, threads: int) -> None:
    if preset == "small":
        torch.set_num_threads(1)
    agent = make(f"preset={preset}")
    observations = np.random.default_rng(0).normal(size=(rows, OBSERVATION_DIM)).astype(np.float32)
    benchmark(agent.act, observations if rows > 1 else observations[0])
    benchmark.extra_info["candidates"] = agent.policy.acting_candidates
