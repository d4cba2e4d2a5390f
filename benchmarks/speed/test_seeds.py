"""Updates of several seeds per second: one after another, and as a group in one process (`small`, batch 128)."""

import multiprocessing
import time
from multiprocessing.synchronize import Barrier

import pytest
import torch

from benchmarks.speed.conftest import make, transitions
from genpolicy.training.agent_group import AgentGroup
from genpolicy.training.compilation import keep_freed_memory

BATCH = 128


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("seeds", [1, 4, 8])
def test_update_of_seeds(benchmark, seeds: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    keep_freed_memory()
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


def train_alone(seed: int, updates: int, ready: Barrier) -> float:
    """A compiled run of its own on one thread; return its seconds once all have compiled."""
    torch.set_num_threads(1)
    keep_freed_memory()
    agent, batch = make("preset=small", f"seed={seed}"), transitions(BATCH)
    agent.accelerate()
    for _ in range(5):
        agent.update(batch)
    ready.wait()
    begun = time.perf_counter()
    for _ in range(updates):
        agent.update(batch)
    return time.perf_counter() - begun


def test_two_processes_at_a_time(benchmark, updates: int = 300) -> None:
    """What groups are compared with: one seed per process, a process per core."""
    context = multiprocessing.get_context("spawn")

    def both() -> float:
        with context.Manager() as manager, context.Pool(2) as pool:
            ready = manager.Barrier(2)
            return max(pool.starmap(train_alone, [(seed, updates, ready) for seed in range(2)], chunksize=1))

    seconds = benchmark.pedantic(both, rounds=1)
    benchmark.extra_info.update(
        {"threads": "1 each", "seed-updates/s": round(2 * updates / seconds, 1), "median": "with start and compilation"}
    )
