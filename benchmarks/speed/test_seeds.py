"""Updates of several seeds per second: one after another, and as a group in one process (`small`, batch 128)."""

import pytest
import torch

from benchmarks.speed.conftest import make, transitions
from genpolicy.training.agent_group import AgentGroup

BATCH = 128


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("seeds", [1, 4, 8])
def test_update_of_seeds(benchmark, seeds: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    batch = transitions(BATCH)
    agents = [make("preset=small", f"seed={seed}") for seed in range(seeds)]
    learner = agents[0] if seeds == 1 else AgentGroup(agents)
    given = batch if seeds == 1 else [batch] * seeds
    learner.accelerate()
    for _ in range(3):
        learner.update(given)  # type: ignore[arg-type]
    benchmark.pedantic(learner.update, args=(given,), rounds=150, warmup_rounds=5)
    benchmark.extra_info.update(
        {"threads": threads, "seed-updates/s": round(seeds / benchmark.stats["median"], 1), "batch": BATCH}
    )
    torch.set_num_threads(before)
