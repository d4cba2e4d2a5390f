"""Scoring a trained run in the simulator."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from genpolicy.bench.intervals import mean_interval, share_interval
from genpolicy.envs import Evaluation, Evaluator, record_video
from genpolicy.training.run import restore, run_task

FINAL_STEP = 2**31
"""Stands where training puts its step, so that final episodes are never those of an evaluation in training."""


def evaluate_run(
    run: Path,
    *,
    episodes: int,
    workers: int = 2,
    seed: int = 0,
    checkpoint: str = "best",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Run a trained agent for new episodes.

    Args:
        run: run directory.
        episodes: number of episodes.
        workers: simulator processes.
        seed: of the episodes; with the same seed all runs get the same ones.
        checkpoint: "best", "last" or a name.
        progress: called with (finished, all).

    Returns:
        For JSON: run, checkpoint, step, episodes, seed, and by metric (success, score, return, length) mean, low, high:
        a 95% Wilson interval for the share of successes, Student-t intervals for the others.
    """
    agent, task = restore(run, checkpoint=checkpoint), run_task(run)
    with Evaluator(task, episodes=episodes, workers=workers, seed=seed, frame_stack=agent.frame_stack) as evaluator:
        evaluation = evaluator.evaluate(agent.act, step=FINAL_STEP, progress=progress)
    return {
        "run": str(run),
        "task": task.name,
        "checkpoint": checkpoint,
        "step": agent.step,
        "episodes": episodes,
        "seed": seed,
        "seconds": evaluation.seconds,
        "metrics": summarise(evaluation),
    }


def summarise(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Mean and 95% interval of each metric over the episodes."""
    summary: dict[str, dict[str, float]] = {}
    if evaluation.successes is not None:
        low, high = share_interval(int(evaluation.successes.sum()), len(evaluation.successes))
        summary["success"] = {"mean": float(evaluation.successes.mean()), "low": low, "high": high}
    measured = {"score": evaluation.scores, "return": evaluation.returns, "length": evaluation.lengths}
    for name, values in measured.items():
        if values is None:
            continue
        low, high = mean_interval(values)
        summary[name] = {"mean": float(values.mean()), "low": low, "high": high}
    return summary


def record_run(run: Path, *, checkpoint: str = "best", seed: int = 0) -> Path:
    """Record one episode of a trained agent into the run's figures; returns the file."""
    agent = restore(run, checkpoint=checkpoint)
    path = run / "figures" / f"episode-{checkpoint}-seed{seed}.mp4"
    return record_video(run_task(run), agent.act, path, episodes=1, seed=seed, frame_stack=agent.frame_stack)
