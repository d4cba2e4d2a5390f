"""D4RL's antmaze tasks (v2): OGBench's ant, which is D4RL's with the same forces, in D4RL's mazes and frame.

Rules of ``antmaze-*-v2`` in D4RL (arXiv:2004.07219, ``d4rl/locomotion``): cells of 4 m, the start at the origin; the
ant starts there with its usual noise; the goal is drawn anew in each episode, up to 1.5 m beyond the centre of the
goal's cell; the reward is 1 within 0.5 m of it, which ends the episode, and 0 elsewhere. Actions last 0.1 s.

What still differs from D4RL: the version of MuJoCo. ``AntMaze_*`` of gymnasium-robotics are further away (time step
0.05 s, other gear, origin at the maze's centre with y turned round, other noise and radius) and are not used.
"""

import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
from ogbench.locomaze.ant import AntEnv

CELL = 4.0
"""Side of a cell of the maze."""
RADIUS = 0.5
"""The goal is reached within this distance."""

MAZES = {
    "umaze": """
        #####
        #S..#
        ###.#
        #G..#
        #####
    """,
    "medium": """
        ########
        #S.##..#
        #..#...#
        ##...###
        #..#...#
        #.#..#.#
        #...#.G#
        ########
    """,
    "large": """
        ############
        #S...#.....#
        #.##.#.#.#.#
        #......#...#
        #.####.###.#
        #..#.#.....#
        ##.#.#.#.###
        #..#...#.G.#
        ############
    """,
}
"""D4RL's mazes: `#` is a wall, `S` the start, `G` the goal."""


class AntMaze(AntEnv):
    """An ant that walks to a goal it does not observe.

    Args:
        maze: umaze, medium or large.
        render_mode: "rgb_array" or None.
        width: of a frame.
        height: of a frame.
    """

    def __init__(self, maze: str, render_mode: str | None = None, width: int = 480, height: int = 480):
        rows = MAZES[maze].split()
        (self._start,), (self._goal_cell,) = (_cells(rows, mark) for mark in "SG")
        self.goal = np.zeros(2)
        size = 4 * max(len(rows), len(rows[0]))
        camera = {"lookat": np.array([2.0 * (len(rows[0]) - 3), 2.0 * (len(rows) - 3), 0.0])}
        camera |= {"distance": float(size), "elevation": -90.0}
        options: dict[str, Any] = {"render_mode": render_mode, "width": width, "height": height}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "maze.xml")
            self._write_model(rows, path)
            super().__init__(str(path), default_camera_config=camera, **options)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode; ``options["goal"]`` (2,) sets the goal instead of drawing one."""
        observation, info = super().reset(seed=seed)
        # D4RL's sampler adds noise twice.
        offset = self.np_random.uniform(0, CELL / 4, 2) + self.np_random.uniform(0, CELL / 8, 2)
        self.goal = self._position(self._goal_cell) + offset
        if options is not None and "goal" in options:
            self.goal = np.asarray(options["goal"], float)
        self.model.geom("target").pos[:2] = self.goal
        return observation, info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Take one step of 0.1 s with an action of shape (8,)."""
        observation, *_ = super().step(action)
        reached = bool(np.linalg.norm(self.get_xy() - self.goal) <= RADIUS)
        return observation, float(reached), reached, False, {"success": float(reached)}

    def _position(self, cell: tuple[int, int]) -> np.ndarray:
        """The centre of a cell (row, column), in metres from the start's."""
        return CELL * np.array([cell[1] - self._start[1], cell[0] - self._start[0]])

    def _write_model(self, rows: list[str], path: Path) -> None:
        """Write OGBench's model of the ant with walls of 2 m and a mark at the goal."""
        tree = ElementTree.parse(self.xml_file)
        world = tree.find("worldbody")
        assert world is not None
        for cell in _cells(rows, "#"):
            x, y = self._position(cell)
            box = {"type": "box", "pos": f"{x} {y} {CELL / 4}", "size": f"{CELL / 2} {CELL / 2} {CELL / 4}"}
            ElementTree.SubElement(world, "geom", box, contype="1", conaffinity="1", material="wall")
        mark = {"name": "target", "type": "cylinder", "size": f"{RADIUS} .05", "pos": "0 0 .05", "material": "target"}
        ElementTree.SubElement(world, "geom", mark, contype="0", conaffinity="0")
        tree.write(path)


def _cells(rows: list[str], mark: str) -> list[tuple[int, int]]:
    return [(i, j) for i, row in enumerate(rows) for j, symbol in enumerate(row) if symbol == mark]
