"""Makes OGBench datasets on this machine, with OGBench's own simulators and oracles, without a download.

The collection follows the published scripts and settings (public repository ``seohongpark/ogbench``, folder
``data_gen_scripts``), so a generated dataset is a new sample from the distribution of the official one: same
layout, same statistics, other episodes. Scores on it are not comparable with scores on the official file,
least of all when it is smaller.

Two details differ from the scripts. Each episode has random generators of its own, made from (seed, split,
index), and starts from a simulator without memory of earlier episodes; so the files are the same bytes for
every number of workers and after every interruption. Random actions of ``noisy`` datasets come from numpy's
generator instead of the action space's, which nothing seeds.
"""

import logging
import platform
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from genpolicy import __version__
from genpolicy.data.generation.recipes import RECIPES, get_recipe
from genpolicy.data.generation.rollout import Episode
from genpolicy.data.generation.storage import partial_dataset, refuse_existing
from genpolicy.data.generation.workers import collect
from genpolicy.envs.rendering import select_renderer
from genpolicy.errors import ConfigError

__all__ = ["generatable", "generate"]

logger = logging.getLogger(__name__)

GENERATOR_VERSION = 1
"""Counts changes of this package that change the episodes made from a seed."""

SIMULATOR_PACKAGES = ("ogbench", "mujoco", "gymnasium", "dm-control", "numpy", "scipy")
"""Packages whose versions can change the episodes made from a seed."""


def generatable() -> list[str]:
    """The names of all datasets that `generate` can make, sorted."""
    return sorted(RECIPES)


def generate(
    name: str,
    *,
    directory: str | Path,
    episodes: int,
    validation_episodes: int | None = None,
    workers: int = 1,
    seed: int = 0,
    episode_steps: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Collect a dataset: ``<name>.npz``, ``<name>-val.npz`` and its provenance, ``<name>.json``.

    Finished episodes are kept in ``<directory>/.<name>.partial`` until all are there. After an interruption
    the same call goes on from them (with another number of episodes or workers, too); no incomplete file is
    ever visible under a dataset's name. The content depends on `name`, `seed`, `episodes`,
    `validation_episodes`, `episode_steps` and the versions of the simulator, not on `workers`. The first
    episodes of a longer dataset are those of a shorter one with the same seed.

    Args:
        name: one of `generatable()`.
        directory: where the files go; made if missing.
        episodes: training episodes; the official sets have between 500 and 5000.
        validation_episodes: default ``episodes // 10``, at least 1.
        workers: simulator processes; 1 simulates in this process, where nothing is rendered.
        seed: of the whole dataset, not negative.
        episode_steps: rows per episode, the last of which is a state whose action has no successor. Default:
            as published (1001; 2001 for pointmaze-giant-navigate, 201 for all stitch sets).
        overwrite: replace existing files, once the new ones are complete.
        progress: called as ``progress(done, total)``, in episodes, at the start and after each episode.

    Returns:
        The file of the training split.

    Raises:
        ConfigError: for a name that cannot be generated or a number out of range.
        GenpolicyError: if images are to be rendered and nothing here can.
        DataError: if the dataset exists (and `overwrite` is false), if an unfinished one with other settings
            is in the way, if another process is making it, or if a worker process dies.
        StorageError: if a file cannot be written.
    """
    recipe = get_recipe(name)
    _require("episodes", episodes, 1)
    validation_episodes = max(1, episodes // 10) if validation_episodes is None else validation_episodes
    _require("validation_episodes", validation_episodes, 1)
    _require("workers", workers, 1)
    _require("seed", seed, 0)
    episode_steps = recipe.episode_steps if episode_steps is None else episode_steps
    _require("episode_steps", episode_steps, 2)
    directory = Path(directory).expanduser()
    if not overwrite:
        refuse_existing(directory, name)
    if recipe.pixels:
        select_renderer()

    settings = {
        **asdict(recipe),
        "seed": seed,
        "episode_steps": episode_steps,
        "generator_version": GENERATOR_VERSION,
        "versions": {package: version(package) for package in SIMULATOR_PACKAGES},
    }
    wanted = [Episode("train", index) for index in range(episodes)]
    wanted += [Episode("validation", index) for index in range(validation_episodes)]
    with partial_dataset(directory, name, settings) as partial:
        missing = [episode for episode in wanted if not partial.file(episode).exists()]
        done = len(wanted) - len(missing)
        if done:
            logger.info("%s: %d of %d episodes are there from an earlier run", name, done, len(wanted))
        if progress:
            progress(done, len(wanted))
        with closing(collect(recipe, missing, seed=seed, steps=episode_steps, workers=workers)) as finished:
            for episode, arrays in finished:
                partial.save(episode, arrays)
                done += 1
                if progress:
                    progress(done, len(wanted))
        if not overwrite:
            refuse_existing(directory, name)
        provenance = {
            "note": "Made with the published settings of this dataset; not the official file.",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "episodes": episodes,
            "validation_episodes": validation_episodes,
            "published_episode_steps": recipe.episode_steps,
            **settings,
            "python": platform.python_version(),
            "genpolicy": __version__,
        }
        return partial.install(name, wanted, provenance)


def _require(name: str, value: int, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ConfigError(f"{name}={value!r} is not allowed: choose a whole number of at least {minimum}.")
