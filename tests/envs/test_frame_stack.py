"""Images and stacks of frames in evaluation: each slot keeps its own."""

import dataclasses
import sys

import numpy as np
import pytest
import torch

from genpolicy.data.tasks import get_task
from genpolicy.envs import Evaluator, make_env
from genpolicy.envs.rendering import observes_images
from genpolicy.errors import ConfigError
from tests.envs.helpers import toy_task

VISUAL = get_task("visual-cube-single-play-singletask-task1-v0")


def grey(observations: np.ndarray, generators: list[torch.Generator]) -> np.ndarray:
    """Actions that tell the frames seen: the newest one's and the oldest one's grey."""
    newest, oldest = observations[:, 0, 0, -1], observations[:, 0, 0, 0]
    return (newest.astype(np.float32) - oldest)[:, None] / 10


@pytest.mark.parametrize("frame_stack", [1, 3])
@pytest.mark.parametrize("workers", [1, 2])
def test_each_episode_has_a_stack_of_its_own(frame_stack: int, workers: int) -> None:
    calls: list[np.ndarray] = []

    def act(observations: np.ndarray, generators: list[torch.Generator]) -> np.ndarray:
        calls.append(observations.copy())
        return grey(observations, generators)

    task = toy_task("Slides")
    with Evaluator(task, episodes=5, workers=workers, slots=2, frame_stack=frame_stack) as evaluator:
        found = evaluator.evaluate(act, step=0)
    assert all(rows.dtype == np.uint8 and rows.shape[1:] == (2, 3, frame_stack) for rows in calls)
    # The first frame is repeated, so newest and oldest differ by the steps taken, at most frame_stack - 1.
    expected = [sum(min(step, frame_stack - 1) for step in range(length)) / 10 for length in found.lengths]
    np.testing.assert_allclose(found.returns, expected, atol=1e-6)
    assert len(set(found.lengths)) > 1


def test_chunks_see_every_frame_though_they_are_asked_rarely() -> None:
    calls: list[np.ndarray] = []

    def act(observations: np.ndarray, generators: list[torch.Generator]) -> np.ndarray:
        calls.append(observations[:, 0, 0].astype(int))
        return np.zeros((len(observations), 2, 1))

    with Evaluator(toy_task("Slides"), episodes=1, frame_stack=3) as evaluator:
        evaluator.evaluate(act, step=0)
    start = calls[0][0, 0]
    for index, (seen,) in enumerate(calls):
        assert seen.tolist() == [start + max(2 * index - back, 0) for back in (2, 1, 0)]


def test_images_stay_bytes() -> None:
    with make_env(toy_task("Slides")) as env:
        assert env.observation_space.dtype == np.uint8
        observation, _ = env.reset(seed=0)
        assert observation.dtype == np.uint8 and observation.shape == (2, 3, 1)


def test_a_stack_of_no_frame_is_refused() -> None:
    with pytest.raises(ConfigError, match="frame_stack must be at least 1, got 0"):
        Evaluator(toy_task("Slides"), episodes=1, frame_stack=0)


def test_the_space_of_rendered_observations_is_known_without_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    import mujoco

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("nothing should be rendered")

    monkeypatch.setattr(mujoco, "Renderer", refuse)
    assert observes_images(VISUAL.environment) and not observes_images("cube-single-v0")
    for task in (VISUAL, dataclasses.replace(VISUAL, environment=f"ogbench-post/{VISUAL.environment}")):
        with make_env(task) as env:
            assert env.observation_space.shape == (64, 64, 3) and env.observation_space.dtype == np.uint8


def test_rendering_needs_no_torch() -> None:
    import subprocess

    probe = "import sys, genpolicy.envs.rendering; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
