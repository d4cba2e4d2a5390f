"""Episodes of a point mass that an oracle leads from goal to goal through a maze.

At each step the oracle names the centre of the next cell on a shortest path to the goal; the action is the
unit vector towards it plus Gaussian noise, clipped to [-1, 1].
"""

from typing import Any

import numpy as np

from genpolicy.data.generation.recipes import Recipe

Cell = tuple[int, int]

STITCH_DISTANCE = 4
"""Cells between the start and the goal of a ``stitch`` episode."""


def empty_cells(maze: np.ndarray) -> list[Cell]:
    """All cells (row, column) of `maze` (rows, columns; 1 = wall) without a wall, row by row."""
    return [(int(i), int(j)) for i, j in np.argwhere(maze == 0)]


def vertex_cells(maze: np.ndarray) -> list[Cell]:
    """The empty cells that are not the middle of a straight corridor: goals of ``navigate`` episodes."""

    def straight(i: int, j: int) -> bool:
        vertical = maze[i - 1, j] + maze[i + 1, j]
        horizontal = maze[i, j - 1] + maze[i, j + 1]
        return {vertical, horizontal} == {0, 2}

    return [cell for cell in empty_cells(maze) if not straight(*cell)]


def cells_at_distance(maze: np.ndarray, start: Cell, distance: int) -> list[Cell]:
    """The empty cells whose shortest path from `start` has exactly `distance` moves."""
    seen, frontier = {start}, [start]
    for _ in range(distance):
        reached = []
        for i, j in frontier:
            for cell in ((i - 1, j), (i, j - 1), (i + 1, j), (i, j + 1)):
                if maze[cell] == 0 and cell not in seen:
                    seen.add(cell)
                    reached.append(cell)
        frontier = reached
    return frontier


class PointmazeRollout:
    """Collects maze episodes.

    Args:
        env: unwrapped OGBench maze environment made with ``terminate_at_goal=False``.
        recipe: a recipe of behaviour ``navigate`` or ``stitch``.
    """

    def __init__(self, env: Any, recipe: Recipe):
        self.env = env
        self.recipe = recipe
        self._empty = empty_cells(env.maze_map)
        self._vertices = vertex_cells(env.maze_map)
        self._subgoals: dict[tuple[Cell, Cell], np.ndarray] = {}

    def subgoal(self, xy: np.ndarray, goal_xy: np.ndarray) -> np.ndarray:
        """The oracle's subgoal (2,); remembered, since it depends only on the two cells."""
        key = (self.env.xy_to_ij(xy), self.env.xy_to_ij(goal_xy))
        if key not in self._subgoals:
            self._subgoals[key] = self.env.get_oracle_subgoal(xy, goal_xy)[0]
        return self._subgoals[key]

    def episode(self, steps: int, seed: int) -> dict[str, list]:
        """Collect `steps` rows; numpy's global generator must have been seeded by the caller.

        Args:
            steps: number of rows.
            seed: for the environment's own generator.

        Returns:
            Lists of `steps` rows: observations, actions, qpos, qvel. As in the published data, the
            observation of the row after a teleport is the state before it, while qpos is the state after it.
        """
        env, navigate = self.env, self.recipe.behaviour == "navigate"
        start = self._choose(self._empty)
        if navigate:
            goal = self._choose(self._vertices)
        else:
            goal = self._choose(cells_at_distance(env.maze_map, start, STITCH_DISTANCE) or [start])
        observation, _ = env.reset(seed=seed, options={"task_info": {"init_ij": start, "goal_ij": goal}})
        rows: dict[str, list] = {"observations": [], "actions": [], "qpos": [], "qvel": []}
        for _ in range(steps):
            xy = env.get_xy()
            direction = self.subgoal(xy, env.cur_goal_xy) - xy
            direction /= np.linalg.norm(direction) + 1e-6
            action = np.clip(direction + np.random.normal(0.0, self.recipe.noise, 2), -1.0, 1.0)
            next_observation, _, _, _, info = env.step(action)
            if navigate and info["success"]:
                env.set_goal(self._choose(self._vertices))
            rows["observations"].append(observation)
            rows["actions"].append(action)
            rows["qpos"].append(info["prev_qpos"])
            rows["qvel"].append(info["prev_qvel"])
            observation = next_observation
        return rows

    @staticmethod
    def _choose(cells: list[Cell]) -> Cell:
        return cells[np.random.randint(len(cells))]
