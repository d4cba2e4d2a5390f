"""What D4RL publishes of its datasets: files, shapes, lengths of episodes and reference scores.

Facts from ``d4rl/infos.py`` and the registrations of d4rl 1.1. A normalised score is
``100 (return - lowest) / (highest - lowest)`` with the reference returns below: those of a random and of an expert
policy (antmaze: of no and of every success; kitchen: of no and of all four subtasks).
"""

import os
from dataclasses import dataclass
from pathlib import Path

_SERVER = "http://rail.eecs.berkeley.edu/datasets/offline_rl"


@dataclass(frozen=True)
class D4RLDataset:
    """One dataset of D4RL."""

    name: str
    """D4RL's own id, for example ``pen-human-v1``."""
    family: str
    """What is simulated: pen, hammer, door, relocate, hopper, halfcheetah, walker2d, antmaze or kitchen."""
    url: str
    """Where the official HDF5 file is; D4RL stores it under the last part of the address."""
    observation_dim: int
    action_dim: int
    horizon: int
    """Steps after which D4RL's environment cuts an episode off."""
    reference_returns: tuple[float, float]
    """The returns that score 0 and 100."""

    @property
    def file_name(self) -> str:
        """The name under which D4RL stores the file."""
        return self.url.rpartition("/")[2]

    @property
    def reward_shift(self) -> float:
        """What is added to all rewards, those of the file and those met online: antmaze's become -1 and 0."""
        return -1.0 if self.family == "antmaze" else 0.0


# family: observation and action components, horizon, reference returns
_FAMILIES: dict[str, tuple[int, int, int, tuple[float, float]]] = {
    "antmaze": (29, 8, 1000, (0.0, 1.0)),
    "pen": (45, 24, 100, (96.262799, 3076.8331017826877)),
    "hammer": (46, 26, 200, (-274.856578, 12794.134825156867)),
    "door": (39, 28, 200, (-56.512833, 2880.5693087298737)),
    "relocate": (39, 30, 200, (-6.425911, 4233.877797728884)),
    "hopper": (11, 3, 1000, (-20.272305, 3234.3)),
    "halfcheetah": (17, 6, 1000, (-280.178953, 12135.0)),
    "walker2d": (17, 6, 1000, (1.629008, 4592.3)),
    "kitchen": (60, 9, 280, (0.0, 4.0)),
}

# maze: its name in the file, whether start and goal varied while the data were collected
_ANTMAZE = {
    "umaze": ("u-maze", False, False),
    "umaze-diverse": ("u-maze", True, True),
    "medium-play": ("big-maze", True, False),
    "medium-diverse": ("big-maze", True, True),
    "large-play": ("hardest-maze", True, False),
    "large-diverse": ("hardest-maze", True, True),
}

_KITCHEN = {
    "complete": "mini_kitchen_microwave_kettle_light_slider-v0",
    "partial": "kitchen_microwave_kettle_light_slider-v0",
    "mixed": "kitchen_microwave_kettle_bottomburner_light-v0",
}


def _build() -> dict[str, D4RLDataset]:
    datasets: dict[str, D4RLDataset] = {}

    def add(family: str, name: str, path: str, horizon: int | None = None) -> None:
        observation_dim, action_dim, steps, returns = _FAMILIES[family]
        url = f"{_SERVER}/{path}.hdf5"
        datasets[name] = D4RLDataset(name, family, url, observation_dim, action_dim, horizon or steps, returns)

    for kind, (maze, starts, goals) in _ANTMAZE.items():
        path = f"ant_maze_v2/Ant_maze_{maze}_noisy_multistart_{starts}_multigoal_{goals}_sparse_fixed"
        add("antmaze", f"antmaze-{kind}-v2", path, 700 if kind.startswith("umaze") else None)
    for family in ("pen", "hammer", "door", "relocate"):
        for kind in ("human", "cloned", "expert"):
            add(family, f"{family}-{kind}-v1", f"hand_dapg_v1/{family}-{kind}-v1")
    for family in ("hopper", "halfcheetah", "walker2d"):
        for kind in ("random", "medium", "medium-replay", "medium-expert", "expert"):
            add(family, f"{family}-{kind}-v2", f"gym_mujoco_v2/{family}_{kind.replace('-', '_')}-v2")
    for kind, path in _KITCHEN.items():
        add("kitchen", f"kitchen-{kind}-v0", f"kitchen/{path}")
    return datasets


DATASETS: dict[str, D4RLDataset] = _build()
"""Every dataset that tasks exist for, by D4RL's name."""


def find_file(dataset: D4RLDataset, directory: str | Path | None = None) -> Path:
    """The file of a dataset: D4RL's own name for it, or ``NAME.hdf5`` if only that exists.

    Args:
        dataset: one of `DATASETS`.
        directory: where the files are; default: the environment variable ``D4RL_DATASET_DIR``, else
            ``~/.d4rl/datasets``.
    """
    default = os.environ.get("D4RL_DATASET_DIR") or "~/.d4rl/datasets"
    folder = Path(directory or default).expanduser().absolute()
    official, plain = folder / dataset.file_name, folder / f"{dataset.name}.hdf5"
    return plain if plain.exists() and not official.exists() else official
