"""Common parts of the speed measurements, and the table that is written from their JSON."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from genpolicy import Agent, make_agent
from genpolicy.training.compilation import keep_freed_memory

OBSERVATION_DIM, ACTION_DIM = 28, 5
RESULTS = Path(__file__).parents[1] / "results" / "speed"


class Table(NamedTuple):
    """A published table."""

    title: str
    command: str


TABLES = {"cpu": Table("Speed on the CPU", "make bench"), "gpu": Table("Speed on a GPU", "make bench-gpu")}
"""By the name of the file that pytest-benchmark writes."""


def make(*overrides: str, algorithm: str = "meanflow_ql", device: str | torch.device = "cpu") -> Agent:
    """An agent at the sizes of cube-single, observation 28 and action 5, with parameters as in mid-training.

    Fresh ones would measure something else: layers that start at zero make gradients so small (denormal) that the
    processor leaves its fast path.
    """
    sizes = {"observation_shape": (OBSERVATION_DIM,), "action_dim": ACTION_DIM}
    agent = make_agent(algorithm, overrides=list(overrides), device=device, **sizes)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator).to(device))
    return agent


def transitions(n: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "observations": torch.randn(n, OBSERVATION_DIM, generator=generator),
        "actions": 2 * torch.rand(n, ACTION_DIM, generator=generator) - 1,
        "next_observations": torch.randn(n, OBSERVATION_DIM, generator=generator),
        "next_actions": 2 * torch.rand(n, ACTION_DIM, generator=generator) - 1,
        "rewards": -torch.ones(n),
        "masks": torch.ones(n),
    }


def chunked(agent: Agent, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch with as many actions per row as an agent's action has."""
    if agent.action_chunk == 1:
        return batch
    of_actions = ("actions", "next_actions")
    return batch | {key: batch[key].unsqueeze(1).repeat(1, agent.action_chunk, 1) for key in of_actions}


def gflop_per_update(agent: Agent, batch: dict[str, torch.Tensor]) -> float:
    """Operations of one update in 1e9; with a delayed policy the mean over its period."""
    with FlopCounterMode(display=False) as counter:
        for _ in range(agent.config.policy_every):
            agent.update(batch)
    return counter.get_total_flops() / agent.config.policy_every / 1e9


@pytest.fixture
def threads():
    """Two threads, the reference machine's cores, in a process as `genpolicy train` sets it up; restored afterwards."""
    keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


def pytest_benchmark_update_json(config, benchmarks, output_json) -> None:
    """Write the table of a whole run, as `make bench` and `make bench-gpu` name it; other runs keep their JSON only."""
    if (name := Path(config.getoption("benchmark_json").name).stem) in TABLES:
        write_table(name, output_json, chosen=config.getoption("keyword"))


def write_table(name: str, measured: dict[str, Any], *, chosen: str = "") -> None:
    """Write NAME.md and NAME.json to the results, from what pytest-benchmark measured."""
    rows = [(one["name"], one["stats"]["median"], one["extra_info"]) for one in measured["benchmarks"]]
    command = f"{TABLES[name].command} K='{chosen}'" if chosen else TABLES[name].command
    machine, commit = measured["machine_info"], measured["commit_info"].get("id", "unknown")[:12]
    lines = [
        f"# {TABLES[name].title}",
        "",
        f"Made by `{command}` on {machine['cpu'].get('brand_raw', 'an unnamed processor')}, "
        f"{machine['cpu'].get('count')} cores, torch {machine.get('torch', 'unknown')}, commit {commit}. Medians; "
        "compare ratios within this table, not seconds between machines.",
        "",
        "| measurement | median | notes |",
        "|---|---|---|",
    ]
    for test, median, notes in rows:
        said = ", ".join(f"{key} {value}" for key, value in notes.items())
        lines.append(f"| {test.removeprefix('test_').replace('_', ' ')} | {1e3 * median:.3f} ms | {said} |")
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n")
    (RESULTS / f"{name}.json").write_text(
        json.dumps([{"name": n, "median_seconds": m, **notes} for n, m, notes in rows], indent=2) + "\n"
    )


def pytest_benchmark_update_machine_info(config, machine_info) -> None:
    """Say which torch was measured."""
    machine_info["torch"] = torch.__version__
