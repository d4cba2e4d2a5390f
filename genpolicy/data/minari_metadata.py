"""What a Minari dataset says of itself: where it is, its task, and the environment to score it in.

Read from ``metadata.json`` alone; this module imports neither minari nor torch, so that simulator processes can use it.

**Names.** ``minari:ID``, as in ``minari:D4RL/door/human-v2``, is looked for in `root`; ``minari:FOLDER`` is a dataset's
own folder, the one that holds ``data/``.

**Antmaze** (Minari's issues 296 and 304, and its generation script). The sets ``D4RL/antmaze/*`` were collected with
``continuing_task=True`` and ``reset_target=False``: the ant reaches the goal after some hundred steps and then stands
there, at a reward of 1 a step and without a termination, until the episode is cut off. About three quarters of the
million transitions are of this kind, and with bootstrapping there a value of ``1 / (1 - discount)`` has to travel back
through the maze. So for these sets (environment ``AntMaze_*`` with sparse rewards)

- an episode ends with the first success, a termination, and what follows is left out; rewards are lowered by 1, as
  usual for D4RL's antmaze;
- the environment is made with ``continuing_task=False``, so that an episode ends at the goal there too, and its metric
  is ``success``: the reference returns of these sets count the steps spent standing at the goal;
- the evaluation environment of the U-maze has its map turned by 180 degrees against the data (issue 304); it is turned
  back, and if walls differ in another way the environment that collected the data is used;
- the observation's three parts are all used: without ``achieved_goal`` the ant's position is missing.
"""

import dataclasses
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genpolicy.data.tasks import Protocol, Task
from genpolicy.errors import DataError

logger = logging.getLogger(__name__)

PREFIX = "minari:"
GOAL_SHIFT = -1.0
"""Is added to the rewards of datasets whose episodes are ended at the goal."""
_PROTOCOL = Protocol(1_000_000, (1_000_000,), online=None)


def root(directory: str | Path | None = None) -> Path:
    """The directory of all datasets: `directory`, the variable ``MINARI_DATASETS_PATH``, or ``~/.minari/datasets``."""
    default = os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets"
    return Path(directory or default).expanduser().absolute()


def locate(name: str, directory: str | Path | None = None) -> Path:
    """The folder of a dataset, which need not exist.

    Args:
        name: with or without ``minari:``, an id, or the path of a dataset's folder (or of the ``data`` in it).
        directory: see `root`.
    """
    name = name.removeprefix(PREFIX)
    folder = Path(name).expanduser().absolute()
    for candidate in (folder, folder.parent):
        if is_dataset(candidate) and folder in (candidate, candidate / "data"):
            return candidate
    return root(directory) / name


def is_dataset(folder: Path) -> bool:
    """Whether a folder holds a Minari dataset."""
    return (folder / "data" / "metadata.json").is_file()


def read(folder: Path) -> dict[str, Any]:
    """The metadata of a dataset.

    Raises:
        DataError: if there is no dataset in `folder`, or its metadata cannot be read.
    """
    file = folder / "data" / "metadata.json"
    if not file.is_file():
        raise DataError(
            f"There is no Minari dataset in {folder}: {file} does not exist. Give minari:ID of a dataset that is in "
            "MINARI_DATASETS_PATH, or minari:FOLDER with the folder that holds data/metadata.json."
        )
    try:
        metadata = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {error}. Download or copy the dataset again.") from error
    missing = [key for key in ("dataset_id", "total_episodes", "total_steps") if key not in metadata]
    if missing:
        raise DataError(
            f"{file} has no {' and no '.join(map(repr, missing))}; it is not that of a complete Minari dataset. "
            "Download or copy it again."
        )
    return metadata


def make_task(name: str, directory: str | Path | None = None) -> Task:
    """The task of a dataset: its own environment and reference returns.

    Args:
        name: ``minari:ID`` or ``minari:FOLDER``.
        directory: see `root`.

    Returns:
        The task. Of a dataset that is not on this machine nothing is known: no environment, and ``return`` as metric.

    Raises:
        DataError: if the dataset's metadata cannot be read.
    """
    folder = locate(name, directory)
    blank = Task(
        name=name,
        source="minari",
        dataset=name.removeprefix(PREFIX),
        environment="",
        discount=0.99,
        metric="return",
        summary="a Minari dataset",
        protocol=_PROTOCOL,
    )
    if not is_dataset(folder):
        return blank
    metadata = read(folder)
    spec = environment_spec(folder)
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    returns = None if low is None or high is None or low == high else (float(low), float(high))
    maze = ends_at_goal(metadata)
    if maze:
        returns = None
    return dataclasses.replace(
        blank,
        name=f"{PREFIX}{metadata['dataset_id']}",
        dataset=str(folder),
        environment=f"{PREFIX}{folder}" if spec else "",
        metric="success" if maze else "score" if returns else "return",
        summary=str(metadata.get("description") or "a Minari dataset"),
        reference_returns=returns,
        difference=_difference(str(spec["id"]), maze) if spec else None,
    )


def ends_at_goal(metadata: Mapping[str, Any]) -> bool:
    """Whether episodes are ended at the first success; see the module's notes on antmaze."""
    spec = _parse(metadata.get("env_spec"))
    return (
        spec is not None
        and str(spec["id"]).startswith("AntMaze_")
        and spec["kwargs"].get("reward_type", "sparse") == "sparse"
    )


def reward_shift(task: Task) -> float:
    """What the loader adds to a task's rewards; 0 for tasks of other sources."""
    return GOAL_SHIFT if task.source == "minari" and ends_at_goal(read(Path(task.dataset))) else 0.0


def environment_spec(folder: Path) -> dict[str, Any] | None:
    """What ``gymnasium.envs.registration.EnvSpec.from_json`` reads to make the environment to score in, or None.

    It is the dataset's evaluation environment, else the one that collected the data; antmaze is put right as the
    module says.

    Raises:
        DataError: if the metadata cannot be read.
    """
    metadata = read(folder)
    collected, evaluated = _parse(metadata.get("env_spec")), _parse(metadata.get("eval_env_spec"))
    spec = evaluated or collected
    if spec is None or not ends_at_goal(metadata):
        return spec
    assert collected is not None
    maps = [one["kwargs"].get("maze_map") for one in (collected, spec)]
    if all(maps) and _walls(maps[0]) != _walls(maps[1]):
        turned = [row[::-1] for row in maps[1][::-1]]
        if _walls(maps[0]) == _walls(turned):
            spec["kwargs"]["maze_map"] = turned
        else:
            logger.warning(
                "%s: the evaluation environment has other walls than the data; the environment that collected the "
                "data is used.",
                folder,
            )
            spec = collected
    spec["kwargs"]["continuing_task"] = False
    return spec


def _difference(environment: str, maze: bool) -> str:
    text = f"the dataset's own environment ({environment}) as installed here"
    if environment.startswith("AdroitHand") and environment.endswith("-v1"):
        text += ", whose rewards depend on the version of gymnasium-robotics"
    if maze:
        return f"{text}; an episode ends at the goal, in the maze of the data"
    return f"{text}; a score is by the dataset's reference returns and is not a D4RL score"


def _parse(text: str | None) -> dict[str, Any] | None:
    """An environment's specification without the keys that Gymnasium 1 no longer knows."""
    if not text:
        return None
    spec = json.loads(text)
    for key in ("apply_api_compatibility", "autoreset"):
        spec.pop(key, None)
    spec["kwargs"] = dict(spec.get("kwargs") or {})
    spec.setdefault("additional_wrappers", [])
    return spec


def _walls(maze: list[list[Any]]) -> list[list[bool]]:
    return [[cell == 1 for cell in row] for row in maze]
