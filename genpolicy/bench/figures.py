"""Figures of runs: learning curves, scores with intervals, learned action distributions."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from genpolicy.data.dataset import TransitionDataset
from genpolicy.training.agent import Agent
from genpolicy.training.run_directory import LogKind

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
"""Okabe and Ito's palette, distinguishable with any colour vision."""


def read_curve(run: Path, metric: str, log: LogKind = "eval") -> tuple[NDArray, NDArray]:
    """Steps and values of a metric in a run's eval.jsonl or train.jsonl."""
    lines = [json.loads(line) for line in (run / f"{log}.jsonl").read_text().splitlines()]
    return np.array([line["step"] for line in lines]), np.array([line[metric] for line in lines], dtype=float)


def learning_curves(runs: dict[str, list[Path]], metric: str, ylabel: str) -> Figure:
    """A line per group of runs: the mean over seeds, with a band from the lowest to the highest seed."""
    figure, axes = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
    for colour, (label, paths) in zip(COLOURS, runs.items(), strict=False):
        curves = [read_curve(path, metric) for path in paths]
        steps, values = curves[0][0], np.stack([value for _, value in curves])
        axes.plot(steps, values.mean(axis=0), color=colour, label=label, marker="o", markersize=3)
        axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, linewidth=0)
    axes.set(xlabel="updates", ylabel=ylabel, ylim=(-0.03, 1.03))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def score_bars(rows: list[dict[str, Any]], ylabel: str) -> Figure:
    """A bar per row with its interval, and a dot for each seed."""
    figure, axes = plt.subplots(figsize=(3.6, 3.2), layout="constrained")
    for index, (colour, row) in enumerate(zip(COLOURS, rows, strict=False)):
        error = [[row["success"] - row["low"]], [row["high"] - row["success"]]]
        axes.bar(index, row["success"], yerr=error, color=colour, alpha=0.75, capsize=4)
        spread = np.linspace(-0.15, 0.15, len(row["by_seed"]))
        axes.scatter(index + spread, row["by_seed"], color="black", s=12, zorder=3)
    axes.set_xticks(range(len(rows)), [row["label"].replace(" ", "\n") for row in rows])
    axes.set(ylabel=ylabel, ylim=(-0.03, 1.05))
    axes.grid(axis="y", alpha=0.3)
    return figure


def action_distributions(
    agents: dict[str, Agent], dataset: TransitionDataset, *, states: int = 3, samples: int = 400
) -> Figure:
    """Two-dimensional actions at a few states: the data nearby, then samples of each agent's head.

    The states are dataset states at which the actions of their neighbours spread most, apart from one another.

    Args:
        agents: by label; trained on two-dimensional actions.
        dataset: where states and neighbours come from.
        states: number of rows.
        samples: points per panel.
    """
    rows = dataset.transition_rows()
    observations, actions = dataset.observations[rows].numpy(), dataset.actions[rows].numpy()
    chosen = _states_of_many_actions(observations, actions, states)
    figure, axes = plt.subplots(
        states,
        1 + len(agents),
        figsize=(2.0 * (1 + len(agents)), 2.0 * states + 0.3),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for index, (row, state) in enumerate(zip(axes, chosen, strict=True)):
        panels = {"data nearby": actions[_neighbours(observations, state, samples)]}
        panels |= {label: _head_samples(agent, state, samples) for label, agent in agents.items()}
        for panel, colour, (label, points) in zip(row, ("#555555", *COLOURS), panels.items(), strict=False):
            panel.scatter(points[:, 0], points[:, 1], s=3, alpha=0.4, color=colour, linewidths=0)
            panel.add_patch(plt.Rectangle((-1, -1), 2, 2, fill=False, color="0.6", linewidth=0.8))
            panel.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal", xticks=(-1, 0, 1), yticks=(-1, 0, 1))
            if index == 0:
                panel.set_title(label, fontsize=9)
        row[0].set_ylabel(f"state ({', '.join(f'{value:.1f}' for value in state[:2])})", fontsize=8)
    figure.supxlabel("first action coordinate", fontsize=9)
    figure.supylabel("second action coordinate", fontsize=9)
    return figure


def _head_samples(agent: Agent, state: NDArray, samples: int) -> NDArray:
    return agent.sample(np.tile(state, (samples, 1)), torch.Generator(agent.device).manual_seed(0))


def _neighbours(observations: NDArray, state: NDArray, count: int) -> NDArray:
    distance = np.square(observations - state).sum(axis=1)
    return np.argpartition(distance, count)[:count]


def _states_of_many_actions(observations: NDArray, actions: NDArray, count: int) -> list[NDArray]:
    candidates = observations[np.random.default_rng(0).choice(len(observations), 300, replace=False)]
    means = [actions[_neighbours(observations, state, 200)].mean(axis=0) for state in candidates]
    order = np.argsort(np.linalg.norm(means, axis=1))  # directions that cancel: many ways lead on
    apart = 0.2 * np.linalg.norm(observations.max(axis=0) - observations.min(axis=0))
    chosen: list[NDArray] = []
    for state in candidates[order]:
        if all(np.linalg.norm(state - other) > apart for other in chosen):
            chosen.append(state)
        if len(chosen) == count:
            break
    return chosen
