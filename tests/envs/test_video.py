import importlib.util
import itertools
import os

import numpy as np
import pytest

from genpolicy.envs import Evaluator, record_video
from genpolicy.envs.video import select_renderer
from genpolicy.errors import ConfigError, GenpolicyError, StorageError
from tests.envs.helpers import POINTMAZE, maze_solver, simulator_processes, toy_task


@pytest.fixture(scope="module")
def renderer():
    """The way to render on this machine; skips where there is none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "MUJOCO_GL", os.environ.get("MUJOCO_GL", ""))
        try:
            name = select_renderer()
        except GenpolicyError as error:
            pytest.skip(f"no way to render without a display: {error}")
        yield name


@pytest.fixture(params=[".gif", ".mp4"])
def suffix(request, renderer):
    for module in ["imageio"] + ["imageio_ffmpeg"] * (request.param == ".mp4"):
        pytest.importorskip(module, reason=f"{request.param} videos need the package {module}")
    return request.param


def test_video_shows_each_step_of_the_evaluated_episode(suffix, tmp_path):
    import imageio.v2 as imageio

    with Evaluator(POINTMAZE, episodes=1, seed=3) as evaluator:
        (length,) = evaluator.evaluate(maze_solver(), step=0).lengths
    path = record_video(POINTMAZE, maze_solver(), tmp_path / "new" / f"maze{suffix}", episodes=1, seed=3, fps=20)
    assert path == tmp_path / "new" / f"maze{suffix}"
    frames = [np.asarray(frame)[..., :3].astype(int) for frame in imageio.get_reader(path)]
    assert len(frames) == length + 1
    assert frames[0].shape == (480, 480, 3)
    assert frames[0].std() > 30
    yellow = [np.argwhere((f[..., 0] > 200) & (f[..., 1] > 150) & (f[..., 2] < 140)).mean(0) for f in frames]
    walls = (frames[0] > 240).all(-1) & (frames[-1] > 240).all(-1)
    assert walls.mean() > 0.1
    assert np.linalg.norm(yellow[-1] - yellow[0]) > 100
    assert max(np.linalg.norm(b - a) for a, b in itertools.pairwise(yellow)) < 40
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_failed_recording_leaves_no_file(renderer, tmp_path):
    pytest.importorskip("imageio")

    def act(observations, generators):
        raise RuntimeError("policy fell over")

    with pytest.raises(RuntimeError, match="policy fell over"):
        record_video(toy_task("Countdown"), act, tmp_path / "toy.gif")
    assert list(tmp_path.iterdir()) == []
    assert simulator_processes() == []


def test_unwritable_place_is_named(renderer, tmp_path):
    pytest.importorskip("imageio")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/toy\.gif"):
        record_video(toy_task("Countdown"), lambda o, g: np.zeros((1, 1)), tmp_path / "file" / "toy.gif")
    assert simulator_processes() == []


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"\.mp4 or \.gif.*toy\.avi"):
        record_video(POINTMAZE, maze_solver(), tmp_path / "toy.avi")


def test_missing_package_is_named_with_the_command_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GenpolicyError, match=r"pip install 'genpolicy\[video\]'"):
        record_video(POINTMAZE, maze_solver(), tmp_path / "toy.mp4")


def test_missing_renderer_is_explained(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    with pytest.raises(GenpolicyError, match=r"tried nonsense .*libegl1 or libosmesa6.*MUJOCO_GL"):
        select_renderer()


def test_renderer_that_was_chosen_by_the_user_is_kept(renderer, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", renderer)
    assert select_renderer() == renderer
