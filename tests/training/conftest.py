"""A tiny agent, sampler and evaluator with the real ones' interfaces, for tests of the loop around them."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from genpolicy.training import checkpoint
from genpolicy.training.loggers import JsonlLogger
from genpolicy.training.run_directory import RunDirectory
from genpolicy.training.trainer import Trainer

WALL_CLOCK = ("time/", "evaluation/seconds")


@dataclass(frozen=True)
class FakeConfig:
    steps: int = 20
    pretrain_steps: int = 0
    online_steps: int = 0
    log_every: int = 2
    eval_every: int = 5
    checkpoint_every: int = 4


class FakeAgent:
    """A linear policy fitted by noisy gradient descent with momentum; every update needs all of its state."""

    def __init__(self, seed: int = 0, *, nan_loss_at: int = -1, nan_weight_at: int = -1, seconds: float = 0.0):
        self.step = 0
        self.weight = torch.zeros(3, 2)
        self.momentum = torch.zeros(3, 2)
        self.generator = torch.Generator().manual_seed(seed)
        self.validation_generator = torch.Generator().manual_seed(seed + 1)
        self.nan_loss_at, self.nan_weight_at, self.seconds = nan_loss_at, nan_weight_at, seconds

    def _error(self, batch, generator):
        observations = batch["observations"]
        noise = 0.1 * torch.randn(observations.shape, generator=generator)
        return observations + noise, (observations + noise) @ self.weight - batch["actions"]

    def update(self, batch):
        time.sleep(self.seconds)
        inputs, error = self._error(batch, self.generator)
        gradient = inputs.T @ error / len(error)
        self.momentum = 0.9 * self.momentum + gradient
        self.weight = self.weight - 0.05 * self.momentum
        self.step += 1
        loss = error.square().mean()
        if self.step == self.nan_loss_at:
            loss = loss * torch.nan
        if self.step == self.nan_weight_at:
            self.weight = self.weight * torch.nan
        return {"policy/loss": loss, "policy/weight_norm": self.weight.norm()}

    def evaluate_losses(self, batch):
        return {"policy/loss": self._error(batch, self.validation_generator)[1].square().mean()}

    def act(self, observation, generator=None):
        noise = torch.stack([torch.randn(2, generator=one) for one in generator])
        return (torch.from_numpy(observation) @ self.weight + 0.01 * noise).numpy()

    def state_dict(self):
        return {
            "step": torch.tensor(self.step),
            "weight": self.weight,
            "momentum": self.momentum,
            "generator": self.generator.get_state(),
            "validation_generator": self.validation_generator.get_state(),
        }

    def load_state_dict(self, state):
        self.step = int(state["step"])
        self.weight, self.momentum = state["weight"].clone(), state["momentum"].clone()
        self.generator.set_state(state["generator"])
        self.validation_generator.set_state(state["validation_generator"])


class FakeSampler:
    def __init__(self, seed: int = 0):
        fixed = torch.Generator().manual_seed(7)
        self.observations = torch.randn(64, 3, generator=fixed)
        self.actions = torch.randn(64, 2, generator=fixed)
        self.generator = torch.Generator().manual_seed(seed)

    def sample(self):
        rows = torch.randint(64, (8,), generator=self.generator)
        return {"observations": self.observations[rows], "actions": self.actions[rows]}

    def state_dict(self):
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"])


class FakeEvaluation:
    def __init__(self, score, seconds):
        self.score, self.seconds = score, seconds

    def metrics(self):
        return {"evaluation/success": self.score, "evaluation/seconds": self.seconds}


class FakeEvaluator:
    """Three "simulator steps" of two episodes; the score depends on the policy and on `step`.

    Args:
        scores: fixed scores by step, in place of the computed ones.
        during: called with (step, simulator step) before each action.
    """

    def __init__(self, scores=None, during=None):
        self.scores, self.during, self.steps = scores, during, []

    def evaluate(self, act, *, step, progress=None):
        began = time.perf_counter()
        self.steps.append(step)
        seeds = np.random.SeedSequence([step]).generate_state(2)
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        observations = np.random.default_rng(step).standard_normal((2, 3)).astype(np.float32)
        total = 0.0
        for simulator_step in range(3):
            if self.during is not None:
                self.during(step, simulator_step)
            total += float(act(observations, generators).sum())
        if progress is not None:
            progress(2, 2)
        score = total if self.scores is None else self.scores[step]
        return FakeEvaluation(score, time.perf_counter() - began)


def build_trainer(path, config=None, *, agent=None, **keywords):
    """A trainer with fresh parts on a new or an existing run directory."""
    run = RunDirectory.open(path) if RunDirectory.exists(path) else RunDirectory.create(path, "seed: 0\n", {})
    keywords = {
        "config": config or FakeConfig(),
        "loggers": [JsonlLogger(run)],
        "evaluator": FakeEvaluator(),
        "validation": FakeSampler(seed=2),
        **keywords,
    }
    return Trainer(agent or FakeAgent(), FakeSampler(), run=run, **keywords)


def read_log(path: Path, kind: str) -> list[dict]:
    """The lines of a log without wall-clock fields."""
    lines = [json.loads(line) for line in (path / f"{kind}.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith(WALL_CLOCK)} for line in lines]


def outcome(path: Path) -> dict:
    """Everything about a finished run that must not depend on when it was interrupted."""
    checkpoints = path / "checkpoints"
    names = checkpoint.names(checkpoints)
    return {
        "checkpoints": {
            name: {key: tensor.tolist() for key, tensor in checkpoint.load(checkpoints / name)[0].items()}
            for name in names
        },
        "best": checkpoint.best(checkpoints),
        "files": sorted(file.name for file in [*path.iterdir(), *checkpoints.iterdir()]),
        "train": read_log(path, "train"),
        "eval": read_log(path, "eval"),
        "state": RunDirectory.open(path).status()["state"],
    }


@pytest.fixture
def trainer_on():
    """`build_trainer` as a fixture."""
    return build_trainer


@pytest.fixture
def fakes():
    """The fake classes and readers by name."""
    return globals()
