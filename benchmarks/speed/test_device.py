"""Training as it runs on a device: batches drawn there, draws, update; a GPU's launches are the enemy: no step waits.

`make bench-gpu` runs it on a CUDA device, `make bench-gpu DEVICE=cpu` on the processor, smaller.
"""

import os
import time

import pytest
import torch

from benchmarks.speed.conftest import ACTION_DIM, OBSERVATION_DIM, gflop_per_update, make
from genpolicy import Agent
from genpolicy.data import BatchSampler, TransitionDataset
from genpolicy.training.agent_group import AgentGroup

DEVICE = torch.device(os.environ.get("DEVICE", "cuda" if torch.cuda.is_available() else "cpu"))
CUDA = DEVICE.type == "cuda"
BATCH = {"paper": 256, "small": 128}
ROUNDS, UPDATES = (10, 100) if CUDA else (3, 5)

pytestmark = pytest.mark.skipif(not CUDA and "DEVICE" not in os.environ, reason="there is no CUDA device")


def synchronize() -> None:
    if CUDA:
        torch.cuda.synchronize()


def matmul_tflops(size: int = 8192 if CUDA else 1024) -> float:
    """Best rate of a matrix product of float32 tensors at the present precision, in TFLOP/s."""
    a, b = torch.randn(size, size, device=DEVICE), torch.randn(size, size, device=DEVICE)
    best = 0.0
    for _ in range(10):
        synchronize()
        begun = time.perf_counter()
        torch.mm(a, b)
        synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - begun) / 1e12)
    return best


def copy_terabytes(size: int = 2**28 if CUDA else 2**24) -> float:
    """Best rate of a copy within the device's memory, read and written bytes counted, in TB/s."""
    a, b = torch.randn(size, device=DEVICE), torch.empty(size, device=DEVICE)
    best = 0.0
    for _ in range(10):
        synchronize()
        begun = time.perf_counter()
        b.copy_(a)
        synchronize()
        best = max(best, 8 * size / (time.perf_counter() - begun) / 1e12)
    return best


@pytest.fixture(scope="module")
def dataset() -> TransitionDataset:
    rows = 100_000
    generator = torch.Generator().manual_seed(0)
    ends = torch.zeros(rows, dtype=torch.bool)
    ends[999::1000] = True
    observations = torch.randn(rows, OBSERVATION_DIM, generator=generator)
    actions = 2 * torch.rand(rows, ACTION_DIM, generator=generator) - 1
    return TransitionDataset.from_arrays(
        observations, actions, -torch.ones(rows), torch.ones(rows), ends, name="random"
    ).to(DEVICE)


@pytest.fixture(params=["highest", "high"])
def precision(request: pytest.FixtureRequest) -> str:
    """Float32 products as they are, or TF32 on GPUs that have it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


def bytes_of(agents: list[Agent]) -> int:
    """The least that an update must move: parameters, moments and targets read and written once."""
    return sum(2 * value.nbytes for agent in agents for value in agent.state_dict().values())


@pytest.mark.parametrize("how", ["eager", "graph", "compiled"])
@pytest.mark.parametrize("seeds", [1, 8])
@pytest.mark.parametrize("preset", ["paper", "small"])
@pytest.mark.parametrize("algorithm", ["meanflow_ql", "fql"])
def test_training(
    benchmark, algorithm: str, preset: str, seeds: int, how: str, precision: str, dataset: TransitionDataset
) -> None:
    given = (f"preset={preset}",)
    agents = [make(*given, f"seed={seed}", algorithm=algorithm, device=DEVICE) for seed in range(seeds)]
    samplers = [BatchSampler(dataset, BATCH[preset], discount=0.99, seed=seed, device=DEVICE) for seed in range(seeds)]
    gflop = seeds * gflop_per_update(agents[0], samplers[0].sample())
    for agent in agents[1:]:
        agent.update(samplers[0].sample())
    group = AgentGroup(agents) if seeds > 1 else None
    if how != "eager":
        (group or agents[0]).accelerate(compiled=how == "compiled")

    def train(updates: int = UPDATES) -> None:
        for _ in range(updates):
            if group is None:
                agents[0].update(samplers[0].sample())
            else:
                group.update([sampler.sample() for sampler in samplers])
        synchronize()

    begun = time.perf_counter()
    train(4)
    prepared = time.perf_counter() - begun
    benchmark.pedantic(train, rounds=ROUNDS, warmup_rounds=1)
    if benchmark.disabled:
        return
    seconds = benchmark.stats["median"] / UPDATES
    rate, bandwidth = matmul_tflops(), copy_terabytes()
    floor = max(gflop / rate / 1e3, bytes_of(agents) / bandwidth / 1e12)
    benchmark.extra_info.update(
        {
            "device": torch.cuda.get_device_name() if CUDA else "cpu",
            "updates per round": UPDATES,
            "ms per update": round(1e3 * seconds, 3),
            "seed-updates/s": round(seeds / seconds, 1),
            "GFLOP": round(gflop, 2),
            "share of matmul": f"{gflop / seconds / rate / 1e3:.1%}",
            "times the floor": round(seconds / floor, 1),
            "seconds before the first": round(prepared, 1),
        }
    )
