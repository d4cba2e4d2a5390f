"""Updates of several seeds per second: one after another, and as a group in one process (`small`, batch 128)."""

import multiprocessing
import time
from multiprocessing.connection import Connection
from statistics import median

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


class Runner:
    """A process that trains some seeds, as a group if there are several, and tells how long updates took."""

    def __init__(self, seeds: tuple[int, ...], threads: int):
        context = multiprocessing.get_context("spawn")
        self.seeds, (self.pipe, theirs) = seeds, context.Pipe()
        self.process = context.Process(target=_train_on_demand, args=(theirs, seeds, threads), daemon=True)
        self.process.start()

    def ask(self, updates: int) -> None:
        self.pipe.send(updates)

    def seconds(self) -> float:
        return self.pipe.recv()

    def close(self) -> None:
        self.pipe.send(0)
        self.process.join()


def _train_on_demand(pipe: Connection, seeds: tuple[int, ...], threads: int) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    agents, batch = [make("preset=small", f"seed={seed}") for seed in seeds], transitions(BATCH)
    learner = agents[0] if len(seeds) == 1 else AgentGroup(agents)
    given = batch if len(seeds) == 1 else [batch] * len(seeds)
    learner.accelerate()
    while updates := pipe.recv():
        begun = time.perf_counter()
        for _ in range(updates):
            learner.update(given)  # type: ignore[arg-type]
        pipe.send(time.perf_counter() - begun)


def test_group_beside_two_processes(benchmark, rounds: int = 8) -> None:
    """Four seeds in a process of two threads, and two processes of one seed and one thread; they take turns."""
    group, alone = Runner((0, 1, 2, 3), threads=2), [Runner((seed,), threads=1) for seed in (0, 1)]

    def seed_updates_per_second(runners: list[Runner], updates: int) -> float:
        for runner in runners:
            runner.ask(updates)
        seconds = max([runner.seconds() for runner in runners])
        return sum(len(runner.seeds) for runner in runners) * updates / seconds

    seed_updates_per_second([group], 5), seed_updates_per_second(alone, 5)  # compilation
    of_group, of_alone = [], []

    def turn() -> None:
        of_alone.append(seed_updates_per_second(alone, 120))
        of_group.append(seed_updates_per_second([group], 60))

    benchmark.pedantic(turn, rounds=rounds)
    for runner in (group, *alone):
        runner.close()
    ratios = [one / other for one, other in zip(of_group, of_alone, strict=True)]
    benchmark.extra_info.update(
        {
            "seed-updates/s of the group": round(median(of_group), 1),
            "of the processes": round(median(of_alone), 1),
            "group / processes": round(median(ratios), 2),
            "lowest and highest": f"{min(ratios):.2f} to {max(ratios):.2f}",
            "batch": BATCH,
        }
    )
