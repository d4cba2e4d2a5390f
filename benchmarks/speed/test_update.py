"""Time of one update, and how far it is from the machine's own matrix product.

The matrix product is measured in the same process just before, so the shares hold when the machine's speed drifts.
Operations are counted by torch on the eager update (two per multiply-add); nothing is counted twice or left out.
"""

import time

import pytest
import torch

from benchmarks.speed.conftest import chunked, gflop_per_update, make, transitions
from genpolicy import Agent
from genpolicy.recipes import recipe_names

SIZES = {"paper": (256, ()), "small": (128, ("preset=small",))}


def matmul_gflops(seconds: float = 1.0, size: int = 2048) -> float:
    """Best rate of a float32 matrix product in GFLOP/s."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter()
        torch.mm(a, b)
        best = max(best, 2 * size**3 / (time.perf_counter() - begun) / 1e9)
    return best


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("preset", SIZES)
@pytest.mark.parametrize("algorithm", ["meanflow_ql", "fql"])
def test_update(benchmark, algorithm: str, preset: str, compiled: bool, threads: int) -> None:
    batch_size, overrides = SIZES[preset]
    if preset == "small":
        torch.set_num_threads(1)
    agent, batch = make(*overrides, algorithm=algorithm), transitions(batch_size)
    gflop = gflop_per_update(agent, batch)
    if compiled:
        agent.accelerate()
    measure(benchmark, agent, batch, gflop, rounds=30 if preset == "paper" else 200)


@pytest.mark.parametrize("algorithm", recipe_names())
def test_eager_update_of(benchmark, algorithm: str, threads: int) -> None:
    """Every recipe at paper size, which compiled would take an hour."""
    agent = make(algorithm=algorithm)
    batch = chunked(agent, transitions(256))
    gflop = gflop_per_update(agent, batch)
    measure(benchmark, agent, batch, gflop, rounds=10)


def measure(benchmark, agent: Agent, batch: dict, gflop: float, *, rounds: int) -> None:
    """Time updates beside the matrix product."""
    for _ in range(4):
        agent.update(batch)
    rate = matmul_gflops()
    period = agent.config.policy_every
    benchmark.pedantic(agent.update, args=(batch,), rounds=rounds, iterations=period, warmup_rounds=2)
    reached = gflop / benchmark.stats["median"]
    benchmark.extra_info.update(
        {
            "GFLOP": round(gflop, 2),
            "GFLOP/s": round(reached, 1),
            "matmul GFLOP/s": round(rate, 1),
            "share of matmul": f"{reached / rate:.0%}",
            "threads": torch.get_num_threads(),
            "batch": len(batch["rewards"]),
        }
    )
