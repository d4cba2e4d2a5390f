"""Suites that take a moment: a tiny network, a handful of updates, data of random numbers, no simulator."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from genpolicy.bench import latency
from genpolicy.data import Task
from genpolicy.data.dataset import TransitionDataset
from genpolicy.envs import Evaluation
from genpolicy.training import run as training

MAZE = "pointmaze-medium-navigate-singletask-task5-v0"
DATASET = "pointmaze-medium-navigate-v0"


def small_tree(**changes: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "title": "Small",
        "question": "Does the runner do what it says?",
        "tasks": [MAZE],
        "seeds": 2,
        "base": [
            *("algorithm=td3_bc", "preset=smoke", "trainer.steps=6", "trainer.batch_size=4", "trainer.log_every=1"),
            *("trainer.eval_every=2", "trainer.checkpoint_every=1", "data.normalize_observations=false"),
        ],
        "factors": {"weight": {"low": "policy.bc_weight=1", "high": ["policy.bc_weight=3"]}},
        "baseline": {"weight": "low"},
    }
    return {key: value for key, value in (tree | changes).items() if value is not None}


def write_suite(folder: Path, name: str = "small", **changes: Any) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(small_tree(**changes), sort_keys=False))
    return str(path)


class ActionsAsScores:
    """Stands in for the evaluator: the score of an episode is what the policy does in it, so that weights show."""

    def __init__(self, task: Task, *, episodes: int, workers: int, seed: int, frame_stack: int):
        self.episodes = episodes
        self.seed = seed

    def __enter__(self) -> "ActionsAsScores":
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def close(self) -> None:
        pass

    def evaluate(self, act: Any, *, step: int, progress: Any = None) -> Evaluation:
        generators = [torch.Generator().manual_seed(self.seed + step + index) for index in range(self.episodes)]
        returns = act(np.ones((self.episodes, 2), np.float32), generators).sum(axis=-1).astype(float)
        ones = np.ones(self.episodes)
        return Evaluation(returns=returns, lengths=ones.astype(int), successes=returns > 0, seconds=0.1)


def random_transitions(*arguments: Any, **more: Any) -> tuple[TransitionDataset, None]:
    draws = np.random.default_rng(0)
    rows = 50
    train_set = TransitionDataset.from_arrays(
        draws.normal(size=(rows, 2)).astype(np.float32),
        draws.uniform(-0.9, 0.9, size=(rows, 2)).astype(np.float32),
        draws.normal(size=rows).astype(np.float32),
        np.ones(rows, np.float32),
        np.arange(rows) % 10 == 9,
        name="random",
        checksum=SHA256,
    )
    return train_set, None


CONTENT = b"random numbers"
SHA256 = "35e5ce80a10b4ac3bf05f8dde16e52d22c32059e29bf97f91fec5e253e9348f1"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a dataset; jobs read random numbers in its place and are scored without a simulator."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(training, "Evaluator", ActionsAsScores)
    monkeypatch.setattr(training, "load_dataset", random_transitions)
    monkeypatch.setattr(latency, "WARM_UP_CALLS", 1)
    monkeypatch.setattr(latency, "TIMED_CALLS", 3)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / f"{DATASET}.npz").write_bytes(CONTENT)
    return folder
