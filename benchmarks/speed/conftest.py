"""Common parts of the speed measurements, and the table that is written from their JSON."""

import json
from pathlib import Path

import pytest
import torch

from genpolicy import Agent, make_agent

OBSERVATION_DIM, ACTION_DIM = 28, 5
RESULTS = Path(__file__).parents[1] / "results" / "speed"


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
        "rewards": -torch.ones(n),
        "masks": torch.ones(n),
    }


@pytest.fixture
def threads():
    """Two threads, the reference machine's cores; restored afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


def pytest_benchmark_update_json(config, benchmarks, output_json) -> None:
    """Write the table beside the JSON."""
    rows = [(one["name"], one["stats"]["median"], one["extra_info"]) for one in output_json["benchmarks"]]
    lines = [
        "# Speed",
        "",
        f"Made by `make bench` on {output_json['machine_info']['cpu'].get('brand_raw', 'an unnamed processor')}, "
        f"{output_json['machine_info']['cpu'].get('count')} cores, torch {torch.__version__}, commit "
        f"{output_json['commit_info'].get('id', 'unknown')[:12]}. Medians; compare ratios within this table, not "
        "seconds between machines.",
        "",
        "| measurement | median | notes |",
        "|---|---|---|",
    ]
    for name, median, notes in rows:
        said = ", ".join(f"{key} {value}" for key, value in notes.items())
        lines.append(f"| {name.removeprefix('test_').replace('_', ' ')} | {1e3 * median:.3f} ms | {said} |")
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "README.md").write_text("\n".join(lines) + "\n")
    (RESULTS / "summary.json").write_text(
        json.dumps([{"name": n, "median_seconds": m, **notes} for n, m, notes in rows], indent=2) + "\n"
    )
