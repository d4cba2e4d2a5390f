"""Episodes of a robot arm whose oracle moves cubes, presses buttons and opens the drawer and the window.

``play`` follows a plan with temporally correlated noise, made once per target (non-Markovian). ``noisy`` is a
closed-loop (Markovian) oracle with Gaussian action noise, whose level is drawn per episode, and some uniform
random actions. In both, a new random target is set as soon as the oracle has finished with the last one.
"""

import copy
from typing import Any

import numpy as np

from genpolicy.data.generation.recipes import Recipe

NOISE_SMOOTHING = 0.5
"""Width, in control steps, of the Gaussian filter over a plan's noise (``play``)."""

MIN_NORM = 0.4
"""Shortest position difference a Markovian oracle works with (``noisy``), in its own units."""

NOISE_SCALE = np.array([1.0, 1.0, 1.0, 3.0, 10.0])
"""Action noise relative to the episode's level: x, y, z, yaw, gripper (``noisy``)."""

CUBE_POSITION = slice(14, 17)
"""Where the first cube's x, y, z are in qpos; 14 numbers before it are the arm and the gripper."""

MODEL_STATE = ("site_pos", "dof_damping")
"""Arrays of the MuJoCo model that OGBench's scenes change while they run."""


def make_oracles(env: Any, recipe: Recipe) -> dict[str, Any]:
    """OGBench's oracles for the scene of `recipe`, by the kind of object they move."""
    from ogbench.manipspace.oracles.markov import button_markov, cube_markov, drawer_markov, window_markov
    from ogbench.manipspace.oracles.plan import button_plan, cube_plan, drawer_plan, window_plan

    if recipe.behaviour == "play":
        cube, button = cube_plan.CubePlanOracle, button_plan.ButtonPlanOracle
        drawer, window = drawer_plan.DrawerPlanOracle, window_plan.WindowPlanOracle
        options: dict[str, Any] = {"noise": recipe.noise, "noise_smoothing": NOISE_SMOOTHING}
    else:
        cube, button = cube_markov.CubeMarkovOracle, button_markov.ButtonMarkovOracle
        drawer, window = drawer_markov.DrawerMarkovOracle, window_markov.WindowMarkovOracle
        options = {"min_norm": MIN_NORM}
    family = recipe.scene.split("-")[0]
    if family == "cube":
        return {"cube": cube(env=env, **options)}
    if family == "puzzle":
        return {"button": button(env=env, gripper_always_closed=True, **options)}
    oracles = {"cube": cube, "button": button, "drawer": drawer, "window": window}
    return {kind: oracle(env=env, **options) for kind, oracle in oracles.items()}


def cube_stays_visible(qpos: np.ndarray) -> bool:
    """Whether the cube of the ``scene`` task never left the table, except into the drawer.

    Args:
        qpos: (T, n) simulator positions of one episode.
    """
    _, y, z = qpos[:, CUBE_POSITION].T
    in_drawer = (z >= 0.06) & (z <= 0.08)
    return bool(np.all(y < 0.29) and np.all((y > -0.3) | in_drawer))


class ManipulationRollout:
    """Collects manipulation episodes.

    Args:
        env: unwrapped OGBench manipulation environment made with ``mode="data_collection"``.
        recipe: a recipe of behaviour ``play`` or ``noisy``.
    """

    def __init__(self, env: Any, recipe: Recipe):
        self.env = env
        self.recipe = recipe
        env.reset(seed=0)  # builds the model
        self._attributes = self._plain_attributes()
        self._model_state = {name: getattr(env.model, name).copy() for name in MODEL_STATE}

    def episode(self, steps: int, seed: int) -> dict[str, list]:
        """Collect `steps` rows; numpy's global generator must have been seeded by the caller.

        A ``scene`` episode in which the cube gets lost is thrown away and another one is collected, as in the
        published data.

        Args:
            steps: number of rows.
            seed: for the environment's own generator.

        Returns:
            Lists of `steps` rows: observations, actions, qpos, qvel and, if there are buttons, button_states.
        """
        self._forget_last_episode()
        self.env.np_random = np.random.default_rng(seed)
        while True:
            rows = self._attempt(steps)
            if self.recipe.scene != "scene-v0" or cube_stays_visible(np.array(rows["qpos"])):
                return rows

    def _attempt(self, steps: int) -> dict[str, list]:
        env, recipe = self.env, self.recipe
        oracles = make_oracles(env, recipe)
        observation, info = env.reset()
        stacking = np.random.uniform(*recipe.stacking)
        noise = np.random.uniform(0.0, recipe.noise) * NOISE_SCALE
        oracle = oracles[info["privileged/target_task"]]
        oracle.reset(observation, info)
        state_keys = ["qpos", "qvel"] + (["button_states"] if "button_states" in info else [])
        rows: dict[str, list] = {key: [] for key in ["observations", "actions", *state_keys]}
        for _ in range(steps):
            if np.random.rand() < recipe.random_action:
                action = np.random.uniform(-1.0, 1.0, 5)
            else:
                action = oracle.select_action(observation, info)
                if recipe.behaviour == "noisy":
                    action = action + np.random.normal(0.0, noise)
            action = np.clip(action, -1.0, 1.0)
            next_observation, _, _, _, info = env.step(action)
            if oracle.done:
                target_observation, target_info = env.set_new_target(p_stack=stacking)
                oracle = oracles[target_info["privileged/target_task"]]
                oracle.reset(target_observation, target_info)
            rows["observations"].append(observation)
            rows["actions"].append(action)
            for key in state_keys:
                rows[key].append(info[f"prev_{key}"])
            observation = next_observation
        return rows

    def _plain_attributes(self) -> dict[str, Any]:
        plain = (bool, int, float, str, np.generic, np.ndarray)
        return {name: copy.copy(value) for name, value in vars(self.env).items() if isinstance(value, plain)}

    def _forget_last_episode(self) -> None:
        """Undo what a reset of the scene leaves in place (targets, locks): episodes are independent."""
        for name, value in self._attributes.items():
            setattr(self.env, name, copy.copy(value))
        for name, value in self._model_state.items():
            getattr(self.env.model, name)[...] = value
