"""Start-up time and memory, of fresh processes."""

import subprocess
import sys
import time

import pytest

MEMORY = """
import sys, torch
from pathlib import Path
from benchmarks.speed.conftest import ACTION_DIM, OBSERVATION_DIM, make
from genpolicy.data import BatchSampler, TransitionDataset
torch.set_num_threads(2)
rows, compiled = 1_000_000, sys.argv[1] == "compiled"
ends = torch.zeros(rows, dtype=torch.bool); ends[999::1000] = True
data = TransitionDataset.from_arrays(torch.randn(rows, OBSERVATION_DIM), 2 * torch.rand(rows, ACTION_DIM) - 1,
    -torch.ones(rows), torch.ones(rows), ends, name="random")
sampler, agent = BatchSampler(data, 256, discount=0.99), make()
if compiled:
    agent.accelerate()
for _ in range(20):
    agent.update(sampler.sample())
size = sum(t.numel() * t.element_size() for t in (data.observations, data.actions, data.rewards, data.masks))
# Not getrusage's peak: it counts the process that started this one.
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024, size)
"""


def run(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def best_seconds(code: str, times: int = 5) -> float:
    """Shortest wall time of a fresh interpreter that runs the code."""
    results = []
    for _ in range(times):
        begun = time.perf_counter()
        run(code)
        results.append(time.perf_counter() - begun)
    return min(results)


def test_import_genpolicy(benchmark) -> None:
    benchmark.pedantic(run, args=("import torch, genpolicy",), rounds=5, warmup_rounds=1)
    torch_alone = best_seconds("import torch")
    benchmark.extra_info["times `import torch`"] = round(benchmark.stats["min"] / torch_alone, 3)


def test_import_and_make_agent(benchmark) -> None:
    code = "import genpolicy; genpolicy.make_agent(observation_shape=(28,), action_dim=5, overrides=['preset=small'])"
    benchmark.pedantic(run, args=(code,), rounds=5, warmup_rounds=1)


def test_help(benchmark) -> None:
    code = "import sys; sys.argv = ['genpolicy', 'train', '--help']; from genpolicy.cli import main; main()"
    benchmark.pedantic(run, args=(code,), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_memory_of_training_on_a_million_transitions(benchmark, mode: str) -> None:
    output = benchmark.pedantic(run, args=(MEMORY, mode), rounds=1)
    peak, data = map(int, output.split())
    benchmark.extra_info["peak MiB"] = round(peak / 2**20)
    benchmark.extra_info["dataset MiB"] = round(data / 2**20)
    benchmark.extra_info["peak above dataset MiB"] = round((peak - data) / 2**20)
