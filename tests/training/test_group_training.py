"""Several runs in step: each ends as it would alone, whatever happens to the others."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from genpolicy.config import compose
from genpolicy.data.generation import generate
from genpolicy.errors import ConfigError, GenpolicyError, NonFiniteError
from genpolicy.training import checkpoint
from genpolicy.training.group_training import train_together
from genpolicy.training.run import stored_config, train, train_seeds
from genpolicy.training.signals import StopSignals
from genpolicy.training.trainer import TrainResult
from tests.training.conftest import FakeAgent, FakeConfig, FakeEvaluator, build_trainer, read_log

TASK = "pointmaze-medium-navigate-singletask-task5-v0"
N = 3


class FakeGroup:
    """Updates fake agents one by one, and counts how often all were updated at once."""

    def __init__(self, agents: list[FakeAgent]):
        self.agents, self.updates = agents, 0

    def update(self, batches):
        assert len({agent.step for agent in self.agents}) == 1
        self.updates += 1
        return [agent.update(batch) for agent, batch in zip(self.agents, batches, strict=True)]


def run_group(folder: Path, agents: list[FakeAgent] | None = None, *, config=None, resume=False, **keywords):
    agents = agents or [FakeAgent(seed) for seed in range(N)]
    group, stop = FakeGroup(agents), StopSignals()
    trainers = [
        build_trainer(folder / f"seed{seed}", config, agent=agent, stop=stop, **keywords)
        for seed, agent in enumerate(agents)
    ]
    return train_together(trainers, group, stop=stop, resume=resume), group  # type: ignore[arg-type]


def run_alone(folder: Path) -> None:
    for seed in range(N):
        build_trainer(folder / f"seed{seed}", agent=FakeAgent(seed)).run()


def assert_equal_runs(ours: Path, theirs: Path, seeds=range(N)) -> None:
    for seed in seeds:
        one, other = ours / f"seed{seed}", theirs / f"seed{seed}"
        for log in ("train", "eval"):
            assert read_log(one, log) == read_log(other, log)
        (found, _), (expected, _) = (checkpoint.load(checkpoint.latest(run / "checkpoints")) for run in (one, other))
        assert found.keys() == expected.keys()
        assert all(found[name].equal(expected[name]) for name in expected)


def test_runs_end_as_alone(tmp_path: Path) -> None:
    ends, group = run_group(tmp_path / "group")
    run_alone(tmp_path / "alone")
    assert [end.state for end in ends] == ["completed"] * N and group.updates == 20
    assert_equal_runs(tmp_path / "group", tmp_path / "alone")


def test_a_run_that_fails_ends_alone(tmp_path: Path) -> None:
    agents = [FakeAgent(0), FakeAgent(1, nan_loss_at=7), FakeAgent(2)]
    ends, _ = run_group(tmp_path / "group", agents)
    run_alone(tmp_path / "alone")
    assert isinstance(ends[1], NonFiniteError) and "step 7" in str(ends[1])
    assert [getattr(end, "state", None) for end in ends] == ["completed", None, "completed"]
    assert json.loads((tmp_path / "group/seed1/status.json").read_text())["state"] == "failed"
    assert_equal_runs(tmp_path / "group", tmp_path / "alone", seeds=(0, 2))


def test_a_request_to_stop_ends_all_and_they_go_on(tmp_path: Path) -> None:
    def strike(step: int, simulator_step: int) -> None:
        if (step, simulator_step) == (10, 1):
            signal.raise_signal(signal.SIGINT)

    ends, _ = run_group(tmp_path / "group", evaluator=FakeEvaluator(during=strike))
    assert [end.state for end in ends] == ["interrupted"] * N
    ends, _ = run_group(tmp_path / "group", resume=True)
    assert [end.state for end in ends] == ["completed"] * N
    run_alone(tmp_path / "alone")
    assert_equal_runs(tmp_path / "group", tmp_path / "alone")


def test_a_run_that_is_behind_catches_up_and_a_complete_one_rests(tmp_path: Path) -> None:
    run_group(tmp_path / "group")
    run_alone(tmp_path / "alone")
    for seed, last in ((0, 8), (1, 4)):  # as if killed before the later checkpoints were written
        folder = tmp_path / "group" / f"seed{seed}" / "checkpoints"
        shutil.rmtree(folder)
        short = tmp_path / f"short{seed}"
        build_trainer(short, FakeConfig(steps=last), agent=FakeAgent(seed)).run()
        shutil.copytree(short / "checkpoints", folder)
        shutil.copy(short / "eval.jsonl", folder.parent)
        shutil.copy(short / "train.jsonl", folder.parent)
    ends, group = run_group(tmp_path / "group", resume=True)
    assert [end.updates for end in ends] == [12, 16, 0]
    assert group.updates == 12
    for seed in range(N):
        ours = checkpoint.load(checkpoint.latest(tmp_path / "group" / f"seed{seed}" / "checkpoints"))[0]
        theirs = checkpoint.load(checkpoint.latest(tmp_path / "alone" / f"seed{seed}" / "checkpoints"))[0]
        assert all(ours[name].equal(theirs[name]) for name in theirs if name.startswith("agent/weight"))


@pytest.fixture(scope="module")
def maze(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("maze")
    generate("pointmaze-medium-navigate-v0", directory=folder, episodes=3, episode_steps=301)
    return folder


def settings(maze: Path, *more: str) -> list[str]:
    given = ("algorithm=fql", f"task={TASK}", "preset=smoke", f"data.dir={maze}", "trainer.eval_workers=1")
    return [*given, "trainer.steps=6", "trainer.eval_every=3", "trainer.eval_episodes=1", *more]


def test_seeds_trained_together_are_those_trained_alone(maze: Path, tmp_path: Path) -> None:
    runs = train_seeds(
        compose(settings(maze, "seeds=2", "seed=5", "vectorize=true", f"run_dir={tmp_path / 'together'}"))
    )
    assert [run.path.name for run, _ in runs] == ["seed5", "seed6"]
    for run, result in runs:
        assert isinstance(result, TrainResult) and result.state == "completed"
        seed = int(run.path.name.removeprefix("seed"))
        alone, _ = train(compose(settings(maze, f"seed={seed}", f"run_dir={tmp_path / f'alone{seed}'}")))
        assert run.config_yaml.replace("together/seed", "alone") == alone.config_yaml
        ours, theirs = (checkpoint.load(one.checkpoints / "step_00000006")[0] for one in (run, alone))
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            # 1e-5 is a thirtieth of Adam's first steps, see the tests of AgentGroup.
            np.testing.assert_allclose(ours[name].double(), tensor.double(), atol=1e-5, rtol=1e-3)
        for found, expected in zip(read_log(run.path, "eval"), read_log(alone.path, "eval"), strict=True):
            assert found == pytest.approx(expected, abs=1e-3)
    folder = str(tmp_path / "together")
    again = train_seeds(stored_config(folder, compose(["vectorize=true"]), ("vectorize",)))
    assert [(result.state, result.updates) for _, result in again] == [("completed", 0)] * 2


def test_seeds_without_vectorize_are_runs_one_after_another(maze: Path, tmp_path: Path) -> None:
    runs = train_seeds(compose(settings(maze, "seeds=2", f"run_dir={tmp_path}", "trainer.eval_every=0")))
    assert [run.path.name for run, _ in runs] == ["seed0", "seed1"]
    assert [result.state for _, result in runs] == ["completed"] * 2


def test_what_cannot_be_done_together_is_refused(maze: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="each run has its own environment"):
        train_seeds(compose(settings(maze, "seeds=2", "vectorize=true", "trainer.online_steps=5")))
    with pytest.raises(ConfigError, match="seeds is 2"):
        train(compose(settings(maze, "seeds=2")))
    together = compose(settings(maze, "seeds=2", "vectorize=true", f"run_dir={tmp_path}", "head.flow_steps=2"))
    train_seeds(together)
    with pytest.raises(GenpolicyError, match="already"):
        train_seeds(together)
