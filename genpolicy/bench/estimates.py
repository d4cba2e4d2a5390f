"""What a plan will cost: from results that are there, from a short calibration, or from the networks' sizes."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

from genpolicy.bench.expansion import evaluation_steps
from genpolicy.bench.jobs import Cell, Job
from genpolicy.config import RunConfig, offline_steps, online_updates, to_tree

How = Literal["measured", "from other tasks", "calibrated", "guessed"]
"""From finished jobs of the cell, of the same levels on other tasks, from a few updates, or from networks' sizes."""

FLOPS = 2e10
"""Floating-point operations a second of one core in networks of such sizes; for guesses."""
UPDATE_SECONDS = 2e-3
"""What an update costs beside arithmetic; for guesses."""
EPISODE_SECONDS = 0.5
"""One episode of an evaluation; for guesses."""
JOB_SECONDS = 3.0
"""To start a job, its simulators, and to time its actions; for guesses."""
STATE, IMAGE, ACTION = (40,), (64, 64, 3), 8
"""Shapes that stand for those of any task."""
_WARM_UP, _TIMED = 2, 6


@dataclass(frozen=True)
class Estimate:
    """What a job of a cell takes."""

    seconds: float
    how: How


Costs = dict[tuple[str, str, tuple[tuple[str, str], ...]], Estimate]
"""By suite, task and levels of a cell."""


def estimate(
    jobs: Sequence[Job],
    results: Iterable[Mapping[str, Any]] = (),
    *,
    calibrate: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Costs:
    """The cost of each cell of a plan.

    Args:
        jobs: the plan.
        results: finished jobs of the same suite, on this machine or one like it.
        calibrate: do a few updates of each configuration that has no result; else such cells are guessed, from sizes
            alone, and wrong by a factor of three at times.
        progress: called with (done, total) while calibrating.
    """
    cells = {identity(job.cell): job.cell for job in jobs}
    measured: dict[Any, list[float]] = {}
    for result in results:
        if result["state"] == "completed":
            levels = tuple(result["levels"].items())
            share = result["seconds"] / result.get("together", 1)
            measured.setdefault((result["suite"], result["task"], levels), []).append(share)
            measured.setdefault((result["suite"], levels), []).append(share)
    costs: Costs = {}
    unknown = []
    for key, cell in cells.items():
        if key in measured:
            costs[key] = Estimate(fmean(measured[key]), "measured")
        elif (key[0], key[2]) in measured:
            costs[key] = Estimate(fmean(measured[key[0], key[2]]), "from other tasks")
        else:
            unknown.append((key, cell))
    rates: dict[str, float] = {}
    kinds = {key: _kind(cell, updates=calibrate) for key, cell in unknown}
    for key, cell in unknown:
        trying = calibrate and cell.kind != "toy"
        if (kind := kinds[key]) not in rates:
            rates[kind] = update_seconds(cell.config) if trying else _guess(cell)
            if progress is not None:
                progress(len(rates), len(set(kinds.values())))
        updates = offline_steps(cell.config) + online_updates(cell.config)
        episodes = 0 if cell.kind == "toy" else len(evaluation_steps(cell.config)) * cell.config.trainer.eval_episodes
        seconds = JOB_SECONDS + updates * rates[kind] + episodes * EPISODE_SECONDS
        costs[key] = Estimate(seconds, "calibrated" if trying else "guessed")
    return costs


def identity(cell: Cell) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    """The key of a cell in `Costs`."""
    return cell.suite, cell.task, cell.levels


def update_seconds(config: RunConfig) -> float:
    """Seconds of an update, not compiled, on random data."""
    import torch

    from genpolicy.data.dataset import BatchSampler, TransitionDataset

    agent, shape = _agent(config)
    rows, generator = 4 * (config.data.action_chunk + config.data.frame_stack) + 200, torch.Generator().manual_seed(0)
    observations = torch.rand((rows, *shape), generator=generator)
    train_set = TransitionDataset.from_arrays(
        ((255 * observations).to(torch.uint8) if len(shape) == 3 else observations).numpy(),
        (1.8 * torch.rand((rows, ACTION), generator=generator) - 0.9).numpy(),
        torch.zeros(rows).numpy(),
        torch.ones(rows).numpy(),
        (torch.arange(rows) == rows - 1).numpy(),
        name="random numbers",
    )
    chunk, n_step = config.data.action_chunk, 1 if config.critic is None else config.critic.n_step
    sampler = BatchSampler(
        train_set,
        config.trainer.batch_size,
        seed=0,
        device=agent.device,
        discount=agent.discount,
        n_step=max(n_step, chunk),
        action_chunk=chunk,
        frame_stack=config.data.frame_stack,
    )
    for turn in range(_WARM_UP + _TIMED):
        if turn == _WARM_UP:
            _wait(agent.device)
            started = time.perf_counter()
        agent.update(sampler.sample())
    _wait(agent.device)
    return (time.perf_counter() - started) / _TIMED


def _guess(cell: Cell) -> float:
    """Seconds of an update from the number of parameters: a pass is two operations for each, a gradient four."""
    agent, _ = _agent(cell.config)
    policy = sum(one.numel() for one in agent.policy_optimizer.parameters)
    critic = agent.critic_optimizer
    values = 0 if critic is None or cell.kind == "toy" else sum(one.numel() for one in critic.parameters)
    sampling = agent.policy.head.steps * agent.policy.acting_candidates
    operations = cell.config.trainer.batch_size * (policy * (12 + 2 * sampling) + values * (12 + 2 * sampling))
    return UPDATE_SECONDS + operations / FLOPS


def _agent(config: RunConfig) -> tuple[Any, tuple[int, ...]]:
    from genpolicy.training.assembly import build_agent

    data = replace(config.data, normalize_observations=False)
    shape = STATE if config.encoder is None else IMAGE
    return build_agent(replace(config, data=data), observation_shape=shape, action_dim=ACTION), shape


def _kind(cell: Cell, *, updates: bool) -> str:
    """What the cost of an update depends on; a guess looks at sizes alone."""
    tree = to_tree(cell.config)
    data = {name: tree["data"][name] for name in ("action_chunk", "frame_stack", "crop_probability")}
    kept = {name: tree[name] for name in (("head", "critic", "policy", "encoder", "agent") if updates else _SIZES)}
    if not updates and kept["critic"]:
        kept["critic"] = {**kept["critic"], "discount": None, "n_step": None}
    sampling = {name: tree["policy"].get(name) for name in ("name", "acting", "num_candidates")}
    return json.dumps([cell.kind, kept, data, sampling, tree["trainer"]["batch_size"], tree["device"]], sort_keys=True)


_SIZES = ("head", "critic", "encoder")


def _wait(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
