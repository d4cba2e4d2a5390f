"""The demonstration: data, training, evaluation, figures and a report, in one call on a laptop."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from genpolicy.bench.intervals import share_interval
from genpolicy.bench.scoring import evaluate_run
from genpolicy.data import get_task
from genpolicy.data.generation import generate
from genpolicy.errors import GenpolicyError
from genpolicy.progress import progress_bar
from genpolicy.training.storage import to_json, write_atomic

TASK = "pointmaze-medium-navigate-singletask-task5-v0"
DATA_EPISODES = 100
FINAL_EPISODES = 50


@dataclass(frozen=True)
class Contender:
    """One line of the demo's table: a label and the overrides that make it."""

    label: str
    overrides: tuple[str, ...]

    def directory(self, runs: Path, seed: int) -> Path:
        """Where its run with a seed lies."""
        return runs / f"{self.label.lower().replace(' ', '-')}-seed{seed}"


CONTENDERS = (
    Contender("MeanFlowQL", ("algorithm=meanflow_ql",)),
    Contender("Gaussian QL", ("algorithm=gaussian_ql",)),
    Contender("MeanFlow BC", ("algorithm=bc",)),
)
COMMON = (
    f"task={TASK}",
    "preset=small",
    "trainer.steps=8000",
    "trainer.log_every=500",
    "trainer.eval_every=1000",
    "trainer.checkpoint_every=2000",
    "trainer.eval_workers=1",
    "trainer.compile=true",
)


def run_demo(
    out: Path,
    *,
    workers: int = 2,
    console: Console,
    contenders: tuple[Contender, ...] = CONTENDERS,
    common: tuple[str, ...] = COMMON,
    seeds: Sequence[int] = (0, 1),
    data_episodes: int = DATA_EPISODES,
    final_episodes: int = FINAL_EPISODES,
) -> Path:
    """Generate data, train all contenders, score them and write the report; finished work is kept and not repeated.

    Args:
        out: directory of data, runs and report.
        workers: processes at the same time.
        console: where the table goes.
        contenders: what to compare.
        common: overrides that all share.
        seeds: seeds of each contender.
        data_episodes: training episodes of the dataset.
        final_episodes: episodes of each run's final evaluation.

    Returns:
        The report, an HTML file.

    Raises:
        GenpolicyError: if a run fails, with the end of its log.
    """
    from genpolicy.bench.report import write_demo_report

    started = time.perf_counter()
    out = out.absolute()
    runs = {contender.label: [contender.directory(out / "runs", seed) for seed in seeds] for contender in contenders}
    jobs = [
        (contender.directory(out / "runs", seed), (*contender.overrides, *common, f"seed={seed}"))
        for seed in seeds
        for contender in contenders
    ]
    with progress_bar() as bar:
        make_data(out / "data", data_episodes, workers, bar)
        train_all(jobs, out / "data", workers, bar)
        scores = score_all(runs, out / "scores.json", final_episodes, workers, bar)
    rows = summarise(scores)
    seconds = time.perf_counter() - started
    report = write_demo_report(out, task=TASK, runs=runs, rows=rows, seconds=seconds, common=common)
    console.print(result_table(rows))
    console.print(f"{seconds / 60:.1f} minutes. Report: {report}", highlight=False, soft_wrap=True)
    return report


def make_data(directory: Path, episodes: int, workers: int, bar: Progress) -> None:
    """Generate the dataset unless it is there."""
    name = get_task(TASK).dataset
    line = bar.add_task("1/3 data: episodes", total=episodes + max(1, episodes // 10))
    if (directory / f"{name}.npz").exists():
        bar.update(line, completed=bar.tasks[line].total)
        return
    generate(
        name,
        directory=directory,
        episodes=episodes,
        workers=workers,
        progress=lambda done, total: bar.update(line, completed=done, total=total),
    )


def train_all(jobs: list[tuple[Path, tuple[str, ...]]], data: Path, workers: int, bar: Progress) -> None:
    """Run `genpolicy train` for every job, some at a time, and show the updates of all together."""
    line = bar.add_task("2/3 training: updates", total=_planned(jobs))
    waiting, running = list(jobs), dict[Path, subprocess.Popen]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                path, overrides = waiting.pop(0)
                if _status(path).get("state") != "completed":
                    running[path] = _start(path, overrides, data)
            for path, process in list(running.items()):
                if process.poll() is None:
                    continue
                del running[path]
                if process.returncode:
                    log = _log(path).read_text()[-2000:]
                    raise GenpolicyError(
                        f"The run {path} failed. Run the same command again to go on. The end of its log:\n{log}"
                    )
            bar.update(line, completed=sum(int(_status(path).get("step", 0)) for path, _ in jobs))
            time.sleep(0.5)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def score_all(
    runs: dict[str, list[Path]], store: Path, episodes: int, workers: int, bar: Progress
) -> dict[str, list[dict[str, Any]]]:
    """Evaluate the last checkpoint of every run for new episodes; scores that are stored are not made again."""
    known: dict[str, dict[str, Any]] = json.loads(store.read_text()) if store.exists() else {}
    line = bar.add_task("3/3 evaluation: episodes", total=episodes * sum(map(len, runs.values())))
    for path in (path for paths in runs.values() for path in paths):
        begun = bar.tasks[line].completed
        if known.get(path.name, {}).get("episodes") != episodes:
            known[path.name] = evaluate_run(
                path,
                episodes=episodes,
                workers=workers,
                checkpoint="last",
                progress=lambda done, _, begun=begun: bar.update(line, completed=begun + done),
            )
            write_atomic(store, to_json(known, indent=2))
        bar.update(line, completed=begun + episodes)
    return {label: [known[path.name] for path in paths] for label, paths in runs.items()}


def summarise(scores: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One row per contender: success over all episodes of all seeds with its Wilson interval, and each seed's."""
    rows = []
    for label, seeds in scores.items():
        episodes = sum(score["episodes"] for score in seeds)
        successes = round(sum(score["metrics"]["success"]["mean"] * score["episodes"] for score in seeds))
        low, high = share_interval(successes, episodes)
        rows.append(
            {
                "label": label,
                "success": successes / episodes,
                "low": low,
                "high": high,
                "episodes": episodes,
                "by_seed": [score["metrics"]["success"]["mean"] for score in seeds],
                "return": sum(score["metrics"]["return"]["mean"] for score in seeds) / len(seeds),
            }
        )
    return rows


def result_table(rows: list[dict[str, Any]]) -> Table:
    """The rows for the terminal."""
    table = Table("", "success", "95% interval", "by seed", "mean return", "episodes", title=TASK)
    for row in rows:
        table.add_row(
            row["label"],
            f"{row['success']:.0%}",
            f"{row['low']:.0%} to {row['high']:.0%}",
            ", ".join(f"{value:.0%}" for value in row["by_seed"]),
            f"{row['return']:.1f}",
            str(row["episodes"]),
        )
    return table


def _start(path: Path, overrides: tuple[str, ...], data: Path) -> subprocess.Popen:
    path.parent.mkdir(parents=True, exist_ok=True)
    going_on = (path / "config.yaml").exists()
    settings = [f"resume={path}"] if going_on else [*overrides, f"data.dir={data}", f"run_dir={path}"]
    with _log(path).open("a") as log:
        command = [sys.executable, "-m", "genpolicy", "train", *settings]
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def _log(path: Path) -> Path:
    return path.with_suffix(".log")


def _status(path: Path) -> dict[str, Any]:
    try:
        return json.loads((path / "status.json").read_text())
    except FileNotFoundError:
        return {}


def _planned(jobs: list[tuple[Path, tuple[str, ...]]]) -> int:
    """Updates of all jobs together."""
    return sum(
        int(text.partition("=")[2]) for _, overrides in jobs for text in overrides if text.startswith("trainer.steps=")
    )
