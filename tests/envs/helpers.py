import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from genpolicy.data.tasks import Task, get_task
from genpolicy.envs import make_env

REPOSITORY = Path(__file__).parents[2]
POINTMAZE = get_task("pointmaze-medium-navigate-singletask-task5-v0")


def toy_task(name: str) -> Task:
    return dataclasses.replace(POINTMAZE, name=name, environment=f"tests.envs.toy:{name}-v0")


def maze_solver(noise: float = 0.0) -> Callable[[np.ndarray, list[torch.Generator]], np.ndarray]:
    """Walks the shortest way to the goal of the pointmaze task, with Gaussian noise from the generators."""
    env = make_env(POINTMAZE)
    env.reset(seed=0)
    maze = env.unwrapped

    def act(observations: np.ndarray, generators: list[torch.Generator]) -> np.ndarray:
        actions = np.stack([maze.get_oracle_subgoal(xy, maze.cur_goal_xy)[0] - xy for xy in observations])
        draws = np.stack([torch.randn(2, generator=generator).numpy() for generator in generators])
        return np.clip(actions / np.linalg.norm(actions, axis=1, keepdims=True) + noise * draws, -1, 1)

    return act


def simulator_processes(parent: int | None = None) -> list[int]:
    """Process ids of simulator processes whose parent is the given process (this one if None)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
            command = (stat.parent / "cmdline").read_text()
        except OSError:
            continue
        if int(fields[1]) == (parent or os.getpid()) and "spawn_main" in command:
            found.append(int(stat.parent.name))
    return found


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return condition()
