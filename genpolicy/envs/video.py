"""Videos of a policy in the simulator, also on machines without a display."""

import contextlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genpolicy.envs.evaluator import Episode, check_actions, run_episodes
from genpolicy.envs.rendering import select_renderer
from genpolicy.envs.simulators import SimulatorPool
from genpolicy.errors import ConfigError, GenpolicyError, StorageError

if TYPE_CHECKING:
    from genpolicy.data.tasks import Task
    from genpolicy.envs.evaluator import Act


def record_video(
    task: "Task",
    act: "Act",
    path: str | Path,
    *,
    episodes: int = 1,
    seed: int = 0,
    step: int = 0,
    fps: int = 30,
    frame_stack: int = 1,
) -> Path:
    """Run a policy and store what it does as one video, episode after episode.

    Args:
        task: where to run.
        act: as in :meth:`genpolicy.envs.Evaluator.evaluate`, called for one episode at a time.
        path: file to write, ``.mp4`` or ``.gif``; its directory is made if need be.
        episodes: number of episodes.
        seed: with `step`, the seed of the episodes: the first ones of ``Evaluator(seed=seed).evaluate(step=step)``.
        step: optimiser step of the policy.
        fps: frames, that is environment steps, per second of video.
        frame_stack: as in :class:`genpolicy.envs.Evaluator`.

    Returns:
        The path written, 480 x 480 pixels; for a task whose observations are images, these. A failed recording leaves
        no file there.

    Raises:
        ConfigError: if the path ends neither in ``.mp4`` nor in ``.gif``, or a number is out of range.
        GenpolicyError: if imageio or a way to render is missing, or the simulator fails.
        StorageError: if the file cannot be written.

    Sets the environment variable ``MUJOCO_GL`` where it is unset, to the first of egl and osmesa that works.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".mp4", ".gif"):
        raise ConfigError(f"Videos are written as .mp4 or .gif, got '{path}'.")
    for name, value, least in (("episodes", episodes, 1), ("fps", fps, 1), ("seed", seed, 0)):
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, got {value}.")
    if not all(importlib.util.find_spec(name) for name in _modules(suffix)):
        raise GenpolicyError("Videos need the package imageio with ffmpeg: pip install 'genpolicy[video]'")
    select_renderer()

    import imageio.v2 as imageio

    partial = path.with_name(f".{path.stem}.partial{suffix}")
    options: dict[str, Any] = {"fps": fps} if suffix == ".mp4" else {"duration": 1000 / fps, "loop": 0}
    pool = SimulatorPool(task.environment, slots=1, workers=1, render=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer: Any = imageio.get_writer(partial, **options)
        with writer:
            run_episodes(
                pool,
                lambda seen, generators, _: check_actions(act(seen, generators), len(seen), pool.action_dim),
                [Episode(seed, step, index) for index in range(episodes)],
                frame_stack=frame_stack,
                on_frame=writer.append_data,
            )
        partial.replace(path)
    except OSError as error:
        raise StorageError(f"Cannot write the video '{path}': {error}. Choose another directory.") from error
    finally:
        pool.close()
        with contextlib.suppress(OSError):
            partial.unlink()
    return path


def _modules(suffix: str) -> list[str]:
    """The optional modules that a kind of video needs."""
    return ["imageio", "imageio_ffmpeg"] if suffix == ".mp4" else ["imageio"]
