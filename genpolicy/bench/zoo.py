"""The zoo in one table: every recipe on the same tasks with the same small budget.

Every run is a small JSON file that is kept and not repeated; the declaration is ``benchmarks/suites/zoo.yaml``.
"""

import dataclasses
import json
import logging
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from genpolicy.bench.cores import available_cores
from genpolicy.bench.zoo_runs import Job, result_file, run_and_store
from genpolicy.config import compose
from genpolicy.data import get_task, load_dataset
from genpolicy.data.generation import generate
from genpolicy.envs.d4rl import require as require_environment
from genpolicy.errors import ConfigError, GenpolicyError
from genpolicy.recipes import declarations, load_recipe, read_yaml, recipe_names

Progress = Callable[[int, int, str], None]


@dataclasses.dataclass(frozen=True)
class TaskData:
    """The data that all runs on a task share."""

    directory: Path | None
    """Where its files are; None: the source's own directory."""
    facts: dict[str, Any]
    """Rows, episodes, checksum and whether it was generated."""


def run_zoo(
    out: Path,
    *,
    quick: bool = False,
    recipes: Sequence[str] = (),
    tasks: Sequence[str] = (),
    seeds: int | None = None,
    workers: int | None = None,
    command: str = "",
    suite: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Do all runs, or what is left of them, and write table, results, figures and README.

    Args:
        out: directory of the result; runs go to its folder ``runs``, generated data to ``data``.
        quick: the short declaration.
        recipes: names or YAML files; by default those of the declaration.
        tasks: any task's name; by default those of the declaration.
        seeds: seeds of every run; by default the declaration's number.
        workers: runs at the same time, on one thread each; by default one per core.
        command: the command line, for the record.
        suite: another declaration than the library's.
        progress: called with (done, total, description).

    Returns:
        The rows of the table, from `genpolicy.bench.zoo_report.summarise`.

    Raises:
        ConfigError: for an unknown name, or a task whose simulator is not installed.
        DataError: if a dataset is absent and cannot be downloaded.
        GenpolicyError: if a worker process dies.
    """
    from genpolicy.bench.zoo_report import write_zoo

    out = out.absolute()
    suite = load_suite(quick) if suite is None else suite
    workers = workers or available_cores()
    chosen, names = find_recipes(suite, recipes), find_tasks(suite, tasks)
    jobs = list_jobs(suite, chosen, names, seeds)  # a wrong setting ends everything here, before any data is made
    data = {name: prepare_data(name, suite, out / "data", workers, progress) for name in names}
    jobs = [dataclasses.replace(job, dataset_sha256=data[job.task].facts["sha256"]) for job in jobs]
    results = run_jobs(jobs, out / "runs", {name: one.directory for name, one in data.items()}, workers, progress)
    facts = {name: one.facts for name, one in data.items()}
    return write_zoo(out, results, datasets=facts, suite=suite, workers=workers, command=command)


# What is run


def load_suite(quick: bool = False) -> dict[str, Any]:
    """Read the declaration; `quick` replaces sections by those of that name."""
    path = declarations("suites") / "zoo.yaml"
    if not path.is_file():
        raise ConfigError(f"{path} is missing; reinstall genpolicy.")
    suite = read_yaml(path.read_text(), str(path))
    overlay = suite.pop("quick")
    return suite | overlay if quick else suite


def find_recipes(suite: Mapping[str, Any], recipes: Sequence[str] = ()) -> list[str]:
    """The recipes to run: those asked for, else those of the declaration.

    Raises:
        ConfigError: for an unknown name (with the nearest ones).
    """
    declared = recipe_names() if suite["recipes"] == "all" else suite["recipes"]
    chosen = list(recipes) or declared
    for name in chosen:
        load_recipe(name)
    return list(dict.fromkeys(chosen))


def find_tasks(suite: Mapping[str, Any], tasks: Sequence[str] = ()) -> list[str]:
    """The tasks to run on: those asked for, else those of the declaration.

    Raises:
        ConfigError: for an unknown name (with the nearest ones), or a task that cannot be scored on this machine.
    """
    chosen = list(dict.fromkeys(tasks or suite["tasks"]))
    for name in chosen:
        require_environment(get_task(name).environment)
    return chosen


def list_jobs(
    suite: Mapping[str, Any], recipes: Sequence[str], tasks: Sequence[str], seeds: int | None = None
) -> list[Job]:
    """All runs; a seed of everything comes before the next seed.

    Args:
        suite: the declaration.
        recipes: names or YAML files.
        tasks: names.
        seeds: seeds of every run; by default the declaration's number.

    Raises:
        ConfigError: if the declaration's overrides do not fit a recipe.
    """
    jobs = []
    for task in tasks:
        own = (suite["tasks"].get(task) or {}).get("overrides") or ()
        for recipe in recipes:
            overrides = (f"algorithm={recipe}", f"task={task}", *suite["common"], *own)
            config = compose(overrides)
            for seed in range(seeds or suite["seeds"]):
                one = dataclasses.replace(config, seed=seed)
                jobs.append(Job(recipe, task, seed, suite["episodes"], (*overrides, f"seed={seed}"), one))
    return sorted(jobs, key=lambda job: job.seed)


def prepare_data(
    name: str, suite: Mapping[str, Any], directory: Path, workers: int, progress: Progress | None = None
) -> TaskData:
    """Generate or download a task's dataset unless it is there, and describe it.

    Raises:
        DataError: if it is absent and cannot be downloaded.
    """
    task, folder = get_task(name), None
    plan = suite["tasks"].get(name) or {}
    episodes = plan.get("generate")
    if episodes is not None:
        folder = directory / f"{episodes}-episodes"
        if not (folder / f"{task.dataset}.npz").exists():
            generate(
                task.dataset,
                directory=folder,
                episodes=episodes,
                workers=workers,
                progress=None
                if progress is None
                else lambda done, total: progress(done, total, f"episodes of {task.dataset}"),
            )
    train_set, _ = load_dataset(task, folder)
    facts = {
        "dataset": task.dataset,
        "generated": episodes is not None,
        "official_episodes": plan.get("official_episodes"),
        "rows": len(train_set.observations),
        "episodes": train_set.num_episodes,
        "sha256": train_set.checksum,
    }
    return TaskData(folder, facts)


# Running


def run_jobs(
    jobs: Sequence[Job],
    directory: Path,
    data: Mapping[str, Path | None],
    workers: int,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Do what has no result yet and return all results, in the order of the jobs.

    A run that completed or diverged is not repeated; one that failed for another reason is tried again.

    Args:
        jobs: the runs.
        directory: one JSON file and one run directory per run.
        data: directory of each task's dataset.
        workers: processes, each of which does one run at a time; 1 runs in this process.
        progress: called with (done, total, description) after each run.

    Raises:
        GenpolicyError: if a worker process dies.
    """
    directory.mkdir(parents=True, exist_ok=True)
    known = {job: stored_result(job, directory) for job in jobs}
    waiting = [job for job in jobs if known[job] is None]
    done = len(jobs) - len(waiting)

    def tell(what: str) -> None:
        if progress is not None:
            progress(done, len(jobs), what)

    tell("runs")
    for job, result in _do(waiting, directory, data, workers):
        known[job] = result
        done += 1
        tell(f"{job.label} {job.task.partition('-')[0]}")
    return [result for job in jobs if (result := known[job]) is not None]


def stored_result(job: Job, directory: Path) -> dict[str, Any] | None:
    """The result of a run that need not be repeated, or None."""
    path = result_file(job, directory)
    if not path.exists():
        return None
    result = json.loads(path.read_text())
    return None if result["state"] == "failed" else result


def _do(
    jobs: Sequence[Job], directory: Path, data: Mapping[str, Path | None], workers: int
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Do all jobs; each comes with its result as soon as it is finished."""
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, run_and_store(job, directory, data[job.task])
        return
    # Forked processes would share the state of this one's thread pools.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=_silence_warnings)
    try:
        waiting, running = list(jobs), dict[Future, Job]()
        while waiting or running:
            # No more than can run at once: what the pool has taken in advance, Ctrl-C would no longer stop.
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                running[pool.submit(run_and_store, job, directory, data[job.task])] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool as error:
        raise GenpolicyError(
            "A worker process died; perhaps memory ran out. Run the same command again to go on, "
            "with fewer --workers if it happens again."
        ) from error
    finally:
        pool.shutdown()


def _silence_warnings() -> None:
    """Each run would repeat what the main process has said about the datasets."""
    logging.getLogger("genpolicy").setLevel(logging.ERROR)
