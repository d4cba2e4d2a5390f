import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from genpolicy.config import RunConfig, compose, online_updates, schedule_steps
from genpolicy.data import BatchSampler, Task, TransitionDataset, get_task
from genpolicy.data.d4rl_catalogue import DATASETS
from genpolicy.data.replay import EpisodeStore, ReplaySampler
from genpolicy.envs import make_env
from genpolicy.errors import ConfigError, GenpolicyError, NonFiniteError
from genpolicy.training import checkpoint
from genpolicy.training import run as run_module
from genpolicy.training.assembly import build_agent
from genpolicy.training.online import Interaction, OnlineConfig
from genpolicy.training.run_directory import RunDirectory
from tests.envs.helpers import POINTMAZE, toy_task

LIMIT = np.float32(1 - 1e-5)


def line_data(rows: int = 61, reward: float = -1.0) -> TransitionDataset:
    """Six episodes of ten steps by random actions on the line."""
    rng = np.random.default_rng(0)
    rows -= 1
    ends = np.arange(rows + 1) % 11 == 10
    ends[-1] = True
    return TransitionDataset.from_arrays(
        rng.uniform(-1, 1, (rows + 1, 1)),
        rng.uniform(-1, 1, (rows + 1, 1)),
        np.full(rows + 1, reward),
        np.ones(rows + 1),
        ends,
        name="line",
    )


def interaction(
    environment: str, *overrides: str, online: OnlineConfig | None = None, seed: int = 0, **keywords
) -> Interaction:
    """An agent of smoke size that learns from its own transitions alone."""
    config = compose(["algorithm=fql", "preset=smoke", *overrides])
    agent = build_agent(config, observation_shape=(1,), action_dim=1)
    chunk = config.data.action_chunk
    store = EpisodeStore((1,), 1, discount=0.9, n_step=chunk, action_chunk=chunk)
    sampler = ReplaySampler(store, None, 8, sampling="online", seed=seed)
    env = make_env(toy_task(environment))
    return Interaction(agent, sampler, env, config=online or OnlineConfig(), seed=seed, **keywords)


class Recorded:
    """Keeps what the environment returned."""

    def __init__(self, env):
        self.env, self.seeds, self.actions, self.steps = env, [], [], []

    def reset(self, *, seed):
        self.seeds.append(seed)
        return self.env.reset(seed=seed)

    def step(self, action):
        self.actions.append(action.copy())
        self.steps.append(self.env.step(action))
        return self.steps[-1]


# One environment step


def test_transitions_are_what_the_environment_returned() -> None:
    phase = interaction("Cliff", online=OnlineConfig(random_steps=60), reward_shift=-1.0)
    phase.env = record = Recorded(phase.env)  # pyright: ignore[reportAttributeAccessIssue]
    for _ in range(60):
        phase.advance()
    batch = phase.sampler.store.gather(torch.arange(60))
    observations, rewards, terminated, truncated, _ = zip(*record.steps, strict=True)
    assert np.array_equal(batch["next_observations"].numpy(), np.stack(observations))
    assert np.array_equal(batch["actions"].numpy(), np.stack(record.actions))
    assert batch["rewards"].tolist() == [reward - 1 for reward in rewards]
    assert batch["masks"].tolist() == [1.0 - done for done in terminated]
    assert any(terminated) and any(cut and not done for cut, done in zip(truncated, terminated, strict=True))
    episodes = sum(cut or done for cut, done in zip(truncated, terminated, strict=True))
    assert len(set(record.seeds)) == len(record.seeds) and len(record.seeds) - episodes in (0, 1)


def test_random_steps_are_uniform_and_learn_nothing() -> None:
    phase = interaction("Line", online=OnlineConfig(random_steps=200))
    before = {name: tensor.clone() for name, tensor in phase.agent.state_dict().items()}
    assert [phase.advance() for _ in range(200)] == [{}] * 200
    actions = phase.sampler.store.gather(torch.arange(200))["actions"]
    assert actions.min() < -0.9 and actions.max() > 0.9 and abs(float(actions.mean())) < 0.15
    assert all(tensor.equal(before[name]) for name, tensor in phase.agent.state_dict().items())
    assert "critic/loss" in phase.advance() and phase.agent.step == 1


def test_the_return_length_and_success_of_the_last_episode_are_told() -> None:
    phase = interaction("Cliff", online=OnlineConfig(random_steps=10_000), reward_shift=-1.0)
    assert phase.metrics() == {}
    while not phase.metrics():
        phase.advance()
    found = phase.metrics()
    assert found["exploration/episodes"] == 1 and found["exploration/length"] == phase.steps
    assert found["exploration/return"] == found["exploration/success"]  # the reward is 1 beyond the cliff: no shift
    assert "exploration/success" not in metrics_after_an_episode("Line")


def metrics_after_an_episode(environment: str) -> dict:
    phase = interaction(environment, online=OnlineConfig(random_steps=10_000))
    while not phase.metrics():
        phase.advance()
    return phase.metrics()


def test_the_policy_explores_by_its_own_randomness_whatever_its_evaluation_temperature() -> None:
    gaussian = ("head=gaussian", "policy.temperature=0")
    for temperature, varied in ((1.0, True), (0.0, False)):
        phase = interaction("Line", *gaussian, online=OnlineConfig(temperature=temperature))
        observation = np.zeros(1, np.float32)
        actions = {float(phase.agent.act(observation, temperature=temperature)[0]) for _ in range(3)}
        assert (len(actions) > 1) is varied
        phase.env = record = Recorded(phase.env)  # pyright: ignore[reportAttributeAccessIssue]
        before = phase.agent.generators["acting"].get_state()
        phase.advance()
        phase.agent = interaction("Line", *gaussian).agent
        phase.agent.generators["acting"].set_state(before)
        start = record.env.reset(seed=record.seeds[0])[0]
        expected = phase.agent.act(start, temperature=temperature)
        assert np.array_equal(record.actions[0], np.clip(expected, -LIMIT, LIMIT))


def test_a_chunk_is_executed_to_its_end_or_the_episodes() -> None:
    phase = interaction("Cliff", "data.action_chunk=3")
    asked = []
    act = phase.agent.act
    phase.agent.act = lambda *a, **k: asked.append((phase.steps, act(*a, **k))) or asked[-1][1]
    phase.env = record = Recorded(phase.env)  # pyright: ignore[reportAttributeAccessIssue]
    for _ in range(30):
        phase.advance()
    ends = [step + 1 for step, (_, _, done, cut, _) in enumerate(record.steps) if done or cut]
    wanted, step = [], 0
    while step < 30:
        wanted.append(step)
        step = min(step + 3, *(end for end in [*ends, 99] if end > step))
    assert [step for step, _ in asked] == wanted
    assert any(end % 3 for end in ends)
    for (step, chunk), until in zip(asked, [*wanted[1:], 30], strict=True):
        assert np.array_equal(record.actions[step:until], np.clip(chunk, -LIMIT, LIMIT)[: until - step])


def parameters(agent, part: str) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in getattr(agent, part).parameters()]


def changed(before: list[torch.Tensor], after: list[torch.Tensor]) -> bool:
    return any(not one.equal(two) for one, two in zip(before, after, strict=True))


@pytest.mark.parametrize(("policy_updates", "policy_steps"), [("all", 4), ("last", 1)])
def test_the_update_to_data_ratio(policy_updates: str, policy_steps: int) -> None:
    online = OnlineConfig(updates_per_step=4, policy_updates=policy_updates)  # pyright: ignore[reportArgumentType]
    phase = interaction("Line", online=online)
    agent, moved = phase.agent, []
    update = agent.update

    def watched(batch, **keywords):
        names = ("policy", "critic")
        before = {name: parameters(agent, name) for name in names}
        target = [tensor.clone() for tensor in agent.critic.target.parameters()]
        metrics = update(batch, **keywords)
        moved.append([changed(before[name], parameters(agent, name)) for name in names])
        moved[-1].append(changed(target, list(agent.critic.target.parameters())))
        return metrics

    agent.update = watched
    metrics = phase.advance()
    assert {"critic/loss", "policy/loss"} <= metrics.keys()
    assert agent.step == len(moved) == 4 and phase.steps == 1
    assert [policy for policy, _, _ in moved] == [False] * (4 - policy_steps) + [True] * policy_steps
    assert all(critic and target for _, critic, target in moved[1:])  # the first target: FQL's follows from before
    assert int(agent.policy_optimizer.count) == policy_steps and int(agent.critic_optimizer.count) == 4


def test_a_failing_simulator_and_a_diverged_policy_are_named() -> None:
    phase = interaction("Cliff")
    phase.agent.act = lambda *_, **__: np.array([np.nan])
    with pytest.raises(NonFiniteError, match="in the online phase"):
        phase.advance()
    phase = interaction("Cliff")
    phase.env.step = lambda action: 1 / 0  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(GenpolicyError, match="simulator failed in the online phase: ZeroDivisionError"):
        phase.advance()


def test_another_simulator_than_the_checkpoints_begins_a_new_episode_with_a_warning(caplog) -> None:
    phase = interaction("Cliff", online=OnlineConfig(random_steps=99))
    for _ in range(3):
        phase.advance()
    assert phase.sampler.store.running
    state = {name: tensor.clone() for name, tensor in phase.state_dict().items()}
    other = interaction("Line", online=OnlineConfig(random_steps=99))
    other.sampler.load_state_dict(phase.sampler.state_dict())
    other.load_state_dict(state)
    other.advance()
    assert "did not repeat the running episode" in caplog.text
    assert len(other.sampler.store.running_episode()[0]) == 1 and other.steps == 4


# Rewards like the data's


def test_the_environments_rewards_are_those_that_the_loader_gives_the_same_states() -> None:
    """OGBench's labels are functions of a row's state; its single-task environments reward the state acted in."""
    from ogbench.relabel_utils import relabel_dataset

    env = make_env(POINTMAZE)
    observation, _ = env.reset(seed=0)
    maze = env.unwrapped
    states, rewards, masks = [], [], []
    done = False
    while not done:
        states.append(observation)
        action = maze.get_oracle_subgoal(observation, maze.cur_goal_xy)[0] - observation
        observation, reward, terminated, truncated, _ = env.step(np.clip(action, -1, 1).astype(np.float32))
        rewards.append(reward)
        masks.append(1.0 - terminated)
        done = terminated or truncated
    data = {"qpos": np.stack(states)}
    relabel_dataset(POINTMAZE.environment, env, data)
    assert terminated and rewards[-1] == 0.0
    assert data["rewards"].tolist() == rewards and data["masks"].tolist() == masks


def test_antmaze_is_shifted_online_as_its_files_are() -> None:
    assert {dataset.reward_shift for dataset in DATASETS.values() if dataset.family == "antmaze"} == {-1.0}
    assert {dataset.reward_shift for dataset in DATASETS.values() if dataset.family != "antmaze"} == {0.0}


# Whole runs


@pytest.fixture
def on_a_toy(monkeypatch: pytest.MonkeyPatch):
    """Run configurations on a toy environment with toy data; `loads` counts how often data were asked for."""

    class Toy:
        loads = 0

        def config(self, path: Path, *overrides: str) -> RunConfig:
            quick = ("preset=smoke", "trainer.eval_every=20", "trainer.steps=15", "trainer.online_steps=40")
            config = compose([*quick, "trainer.log_every=4", "trainer.checkpoint_every=6", *overrides])
            return dataclasses.replace(config, task=self.environment, run_dir=str(path))

        environment = "Cliff"

    class OneEpisode:
        """An evaluator without processes."""

        def __init__(self, task: Task, **_):
            self.env = make_env(task)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.env.close()

        def evaluate(self, act, *, step: int, progress=None):
            total, done = 0.0, False
            observation, _ = self.env.reset(seed=step)
            while not done:
                actions = act(observation[None], [torch.Generator().manual_seed(step)]).reshape(-1, 1)
                observation, _, terminated, truncated, _ = self.env.step(actions[0])
                total, done = total + float(actions[0, 0]), terminated or truncated
            return SimpleNamespace(metrics=lambda: {"evaluation/success": total})

    toy = Toy()
    monkeypatch.setattr(run_module, "Evaluator", OneEpisode)

    def load(task: Task, *_, **__):
        toy.loads += 1
        return line_data(), None

    monkeypatch.setattr(run_module, "get_task", lambda name: dataclasses.replace(toy_task(name), source="toy"))
    monkeypatch.setattr(run_module, "load_dataset", load)
    return toy


class Crash(Exception):
    pass


class CrashAt:
    def __init__(self, step: int):
        self.step = step

    def update(self, step, total, metrics):
        if step == self.step:
            raise Crash

    def evaluation(self, done, total):
        pass


RUNS = {
    "append": ("algorithm=meanflow_ql", "critic.n_step=3"),
    "balanced, chunks": ("algorithm=fql", "data.action_chunk=3", "online.sampling=balanced"),
    "rlpd from scratch": (
        "algorithm=rlpd",
        "trainer.steps=0",
        "trainer.online_steps=50",
        "online.sampling=online",
        "online.random_steps=8",
        "online.updates_per_step=2",
        "online.policy_updates=last",
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_killed_in_either_phase_ends_like_an_undisturbed_one(name: str, tmp_path: Path, on_a_toy, fakes) -> None:
    # 13: offline; 16: the first step online; 24 to 27: with checkpoints at episode's ends and inside.
    calm, harsh = tmp_path / "calm", tmp_path / "harsh"
    run_module.train(on_a_toy.config(calm, *RUNS[name]))
    with pytest.raises(Crash):
        run_module.train(on_a_toy.config(harsh, *RUNS[name]), progress=CrashAt(13))
    for moment in (16, 23, 26, 27, 40, 49):
        with pytest.raises(Crash):
            run_module.resume(run_module.stored_config(harsh), progress=CrashAt(moment))
    _, result = run_module.resume(run_module.stored_config(harsh))
    ours, theirs = fakes["outcome"](harsh), fakes["outcome"](calm)
    assert ours == theirs
    assert result.step == (50 if "scratch" in name else 55)
    assert len(theirs["train"]) == -(-result.step // 4)
    assert [line["step"] for line in theirs["eval"]] == ([20, 40, 50] if "scratch" in name else [15, 20, 40, 55])


def test_the_end_of_each_phase_is_evaluated_and_the_logs_name_the_phase(tmp_path: Path, trainer_on, fakes) -> None:
    agent = fakes["FakeAgent"]()

    class Online:
        steps = 0

        def advance(self):
            self.steps += 1
            return agent.update(fakes["FakeSampler"]().sample())

        def metrics(self):
            return {"exploration/return": float(self.steps)}

        def state_dict(self):
            return {"steps": torch.tensor(self.steps)}

        def load_state_dict(self, state):
            self.steps = int(state["steps"])

    path, evaluator = tmp_path / "run", fakes["FakeEvaluator"]()
    config = fakes["FakeConfig"](steps=7, online_steps=6, eval_every=5, log_every=4)
    result = trainer_on(path, config, agent=agent, online=Online(), evaluator=evaluator).run()
    assert result.step == 13
    lines = {kind: fakes["read_log"](path, kind) for kind in ("train", "eval")}
    assert [(line["step"], line["phase"]) for line in lines["eval"]] == [
        (5, "offline"),
        (7, "offline"),
        (10, "online"),
        (13, "online"),
    ]
    assert [(line["step"], line["phase"]) for line in lines["train"]] == [
        (4, "offline"),
        (8, "online"),
        (12, "online"),
        (13, "online"),
    ]
    assert lines["train"][2]["exploration/return"] == 5
    assert checkpoint.names(path / "checkpoints")[-1] == "step_00000013"


def test_a_run_from_scratch_needs_no_dataset(tmp_path: Path, on_a_toy) -> None:
    scratch = ("algorithm=sac", "trainer.steps=0", "online.sampling=online", "online.random_steps=5")
    run, result = run_module.train(on_a_toy.config(tmp_path / "run", *scratch))
    assert (result.state, result.step, on_a_toy.loads) == ("completed", 40, 0)
    facts = json.loads((run.path / "provenance.json").read_text())
    assert facts["dataset_sha256"] is None
    assert facts["data"] == {"observation_shape": [1], "action_dim": 1}
    assert run_module.restore(run.path, checkpoint="last").step == 35
    with pytest.raises(ConfigError, match=r"data\.normalize_observations needs the dataset"):
        on_a_toy.config(tmp_path / "other", *scratch, "data.normalize_observations=true")


def test_data_of_another_task_are_refused_before_training(tmp_path: Path, on_a_toy) -> None:
    on_a_toy.environment = "Countdown"
    with pytest.raises(ConfigError, match=r"'tests.envs.toy:Countdown-v0' has observations of shape \(4,\)"):
        run_module.train(on_a_toy.config(tmp_path / "run"))
    assert not RunDirectory.exists(tmp_path / "run")


def test_schedules_end_with_the_offline_phase(tmp_path: Path) -> None:
    both = compose(["trainer.steps=30", "trainer.pretrain_steps=4", "trainer.online_steps=50"])
    assert schedule_steps(both) == 34
    scratch = ["trainer.steps=0", "trainer.online_steps=50", "online.random_steps=10", "online.updates_per_step=3"]
    assert schedule_steps(compose(scratch)) == online_updates(compose(scratch)) == 120
    agent = build_agent(compose(["preset=smoke", "trainer.steps=2"]), observation_shape=(1,), action_dim=1)
    sampler = BatchSampler(line_data(), 8, discount=0.9)
    rates = [float(agent.update(sampler.sample())["policy/learning_rate"]) for _ in range(5)]
    assert rates[2:] == pytest.approx([1e-5] * 3)  # min_ratio of the base


def returns_of(agent, episodes: int = 20) -> float:
    """Mean return of the policy's mode on the line, and of the best policy from the same starts."""
    env = make_env(toy_task("Line"))
    gaps = []
    for seed in range(episodes):
        observation, _ = env.reset(seed=seed)
        start, done, total = abs(float(observation[0])), False, 0.0
        while not done:
            observation, reward, _, done, _ = env.step(agent.act(observation))
            total += float(reward)
        best = -sum(max(start - k / 4, 0.0) for k in range(1, 21))
        gaps.append(best - total)
    return float(np.mean(gaps))


def test_sac_from_scratch_learns_to_walk_to_the_middle() -> None:
    """Random actions lose about 8 against the best policy, standing still about 9; 1 is 0.05 away in each step."""
    config = compose(
        [
            "algorithm=sac",
            "preset=smoke",
            "critic.hidden_dims=[32,32]",
            "critic.discount=0.9",
            "critic.ema_rate=0.02",
            "head.backbone.hidden_dims=[32,32]",
            "agent.policy_optimizer.learning_rate=3e-3",
            "agent.critic_optimizer.learning_rate=3e-3",
        ]
    )
    agent = build_agent(config, observation_shape=(1,), action_dim=1)
    store = EpisodeStore((1,), 1, discount=agent.discount)
    sampler = ReplaySampler(store, None, 64, sampling="online")
    phase = Interaction(agent, sampler, make_env(toy_task("Line")), config=OnlineConfig(random_steps=200))
    before = returns_of(agent)
    for _ in range(1000):
        phase.advance()
    assert before > 4
    assert returns_of(agent) < 1


def test_tasks_without_an_environment_are_refused_for_the_online_phase() -> None:
    task = get_task("kitchen-complete-v0")
    config = compose([f"task={task.name}", "trainer.eval_every=0", "trainer.online_steps=5"])
    with pytest.raises(ConfigError, match="kitchen"):
        run_module._task(config)
