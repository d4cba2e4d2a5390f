"""Time and memory of loading a dataset, and time of drawing a batch, beside the update that uses it."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.benchmark import Timer

from benchmarks.speed.conftest import ACTION_DIM, OBSERVATION_DIM, make, transitions
from genpolicy import make_agent
from genpolicy.data import BatchSampler, TransitionDataset, load_dataset


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


ANT = "antmaze-medium-navigate-singletask-v0"
LOAD = """
import sys, time
from pathlib import Path
from genpolicy.data import load_dataset
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
task, small, path = sys.argv[1:]
load_dataset(task, path=small)  # what the simulator and the modules take
Path("/proc/self/clear_refs").write_text("5")
before, begun = peak(), time.perf_counter()
data, _ = load_dataset(task, path=path)
seconds = time.perf_counter() - begun
size = sum(t.numel() * t.element_size() for t in (data.observations, data.actions, data.rewards, data.masks))
print(seconds, peak() - before, size)
"""


def ant_arrays(rows: int) -> dict[str, Any]:
    """What a file of OGBench's antmaze holds, with random numbers."""
    generator = np.random.default_rng(0)
    ends = np.zeros(rows, bool)
    ends[999::1000] = True
    sizes = {"observations": 29, "qpos": 15, "qvel": 14}
    return {key: generator.normal(size=(rows, size)).astype(np.float32) for key, size in sizes.items()} | {
        "actions": generator.uniform(-1.2, 1.2, size=(rows, 8)).clip(-1, 1).astype(np.float32),
        "terminals": ends,
    }


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells a process its peak memory")
def test_load_a_million_transitions(benchmark, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "small.npz", **ant_arrays(2000))
    np.savez_compressed(tmp_path / "ant.npz", **ant_arrays(1_001_000))
    command = [sys.executable, "-c", LOAD, ANT, str(tmp_path / "small.npz"), str(tmp_path / "ant.npz")]
    output = benchmark.pedantic(
        lambda: subprocess.run(command, capture_output=True, text=True, check=True).stdout, rounds=1
    )
    seconds, memory, size = map(float, output.split())
    benchmark.extra_info["of that, seconds of loading"] = round(seconds, 2)
    benchmark.extra_info["peak memory over arrays"] = round(memory / size, 2)


@pytest.mark.parametrize("n_step", [1, 5])
def test_sample_from_numbered_files(benchmark, tmp_path: Path, n_step: int, threads: int) -> None:
    """Of the files only what is drawn is read, by threads; beside it, the same rows in memory."""
    folder = tmp_path / "files"
    folder.mkdir()
    np.savez(folder / "antmaze-000.npz", **ant_arrays(500_000))
    for number in (1, 2, 3):
        (folder / f"antmaze-{number:03d}.npz").hardlink_to(folder / "antmaze-000.npz")
    dataset, _ = load_dataset(ANT, path=folder)
    sampler = BatchSampler(dataset, 256, discount=0.99, n_step=n_step)
    benchmark(sampler.sample)
    copied = {"observations": dataset.observations.clone(), "actions": dataset.actions.clone()}
    in_memory = BatchSampler(dataclasses.replace(dataset, file=None, **copied), 256, discount=0.99, n_step=n_step)
    agent = make_agent("meanflow_ql", observation_shape=(29,), action_dim=8)
    best: dict[str, float] = {}
    for source, kind in ((in_memory, "memory"), (sampler, "files")) * 3:
        timer = Timer("agent.update(source.sample())", globals={"agent": agent, "source": source}, num_threads=2)
        best[kind] = min(best.get(kind, float("inf")), timer.timeit(5).mean)
    benchmark.extra_info["paper-size update from files over one from memory"] = round(best["files"] / best["memory"], 3)
