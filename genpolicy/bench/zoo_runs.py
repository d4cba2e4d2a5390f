"""One run of the zoo's table: train a recipe on a task, score it, time it."""

import dataclasses
import hashlib
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import genpolicy
from genpolicy.bench.latency import act_seconds
from genpolicy.bench.scoring import FINAL_STEP
from genpolicy.config import RunConfig, to_tree
from genpolicy.data import get_task, load_dataset
from genpolicy.envs import Evaluator
from genpolicy.errors import NonFiniteError
from genpolicy.training.run import restore, run_task, train
from genpolicy.training.storage import to_json, write_atomic


@dataclass(frozen=True)
class Job:
    """One run: everything that determines its result."""

    recipe: str
    """A name of `genpolicy list algorithms`, or the path of a YAML file."""
    task: str
    seed: int
    episodes: int
    """Of the evaluation."""
    overrides: tuple[str, ...]
    """All of them, recipe, task and seed included."""
    config: RunConfig
    """What they resolve to; without the places of data and run."""
    dataset_sha256: str | None = None
    """Of the training data: on other data it is another run. Where the file lies does not matter."""

    @property
    def label(self) -> str:
        """What the recipe is called in the table."""
        return Path(self.recipe).stem

    @property
    def name(self) -> str:
        """The name of its files; it ends in a hash of everything that determines the result."""
        identity = {
            "config": to_tree(self.config),
            "episodes": self.episodes,
            "dataset_sha256": self.dataset_sha256,
            "version": genpolicy.__version__,
        }
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
        return f"{self.task}-{self.label}-seed{self.seed}-{key}"


def result_file(job: Job, directory: Path) -> Path:
    """Where the result of a job lies."""
    return directory / f"{job.name}.json"


def run_and_store(job: Job, directory: Path, data: Path | None) -> dict[str, Any]:
    """Do a job and write its result, an error included, beside its run directory.

    Args:
        job: what to run.
        directory: of results and run directories.
        data: directory of the dataset's files; by default the source's own.

    Returns:
        The result.
    """
    facts = {
        "recipe": job.label,
        "task": job.task,
        "seed": job.seed,
        "metric": get_task(job.task).metric,
        "dataset_sha256": job.dataset_sha256,
        "overrides": job.overrides,
    }
    started = time.perf_counter()
    try:
        result = {"state": "completed"} | run_job(job, directory / job.name, data)
    except Exception as error:
        state = "diverged" if isinstance(error, NonFiniteError) else "failed"
        result = {"state": state, "error": f"{type(error).__name__}: {error}"}
    result = facts | result | {"seconds": time.perf_counter() - started}
    write_atomic(result_file(job, directory), to_json(result, indent=1))
    return result


def run_job(job: Job, run_dir: Path, data: Path | None) -> dict[str, Any]:
    """Train, evaluate and time one agent; what an earlier call left in the run directory is dropped.

    Raises:
        KeyboardInterrupt: if training was interrupted.
        GenpolicyError: if the run fails, NonFiniteError if it diverges.
    """
    shutil.rmtree(run_dir, ignore_errors=True)
    config = dataclasses.replace(job.config, run_dir=str(run_dir))
    if data is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, dir=str(data)))
    run, trained = train(config)
    if trained.state != "completed":
        raise KeyboardInterrupt
    agent, task = restore(run.path, checkpoint="last"), run_task(run.path)
    with Evaluator(task, episodes=job.episodes, workers=1, seed=job.seed, frame_stack=agent.frame_stack) as evaluator:
        evaluation = evaluator.evaluate(agent.act, step=FINAL_STEP)
    scores = evaluation.successes if task.metric == "success" else evaluation.scores
    assert scores is not None
    log = (run.path / "train.jsonl").read_text().splitlines()
    train_set, _ = load_dataset(task, data, download=False)
    return {
        "scores": [float(score) for score in scores],
        "returns": evaluation.returns.tolist(),
        "updates": trained.step,
        "updates_per_second": median(json.loads(line)["time/updates_per_second"] for line in log),
        "act_milliseconds": 1000 * act_seconds(agent, train_set.observations[0].numpy()),
        "evaluation_seconds": evaluation.seconds,
        "evaluations_per_action": agent.policy.head.steps,
        "candidates": agent.policy.acting_candidates,
        "action_chunk": job.config.data.action_chunk,
        "policy_parameters": sum(one.numel() for one in agent.policy_optimizer.parameters),
        "critic_parameters": 0
        if agent.critic_optimizer is None
        else sum(one.numel() for one in agent.critic_optimizer.parameters),
    }
