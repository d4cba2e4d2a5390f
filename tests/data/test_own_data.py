import dataclasses
import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from genpolicy import cli
from genpolicy.config import compose
from genpolicy.data import BatchSampler, TransitionDataset, check_file, load_file
from genpolicy.data.dataset import ACTION_EPSILON
from genpolicy.data.files import own_task, with_environment
from genpolicy.data.tasks import get_task
from genpolicy.envs import Evaluator
from genpolicy.errors import ConfigError, DataError
from genpolicy.training.run import resume, run_task, stored_config, train
from tests.data.minari_sets import episode, write

SMALL = ("algorithm=bc", "preset=smoke", "trainer.steps=4", "trainer.eval_every=4", "trainer.eval_episodes=2")


def steps(lengths: tuple[int, ...] = (4, 6), *, terminal: tuple[int, ...] = (0,), seed: int = 0) -> dict:
    """Episodes in D4RL's layout with next observations; `terminal` are the episodes that end by a terminal."""
    rng = np.random.default_rng(seed)
    states = [rng.normal(size=(length + 1, 3)).astype(np.float32) for length in lengths]
    last = np.cumsum(lengths) - 1
    count = sum(lengths)
    return {
        "observations": np.concatenate([one[:-1] for one in states]),
        "next_observations": np.concatenate([one[1:] for one in states]),
        "actions": rng.uniform(-1, 1, size=(count, 1)).astype(np.float32),
        "rewards": rng.normal(size=count).astype(np.float32),
        "terminals": np.isin(np.arange(count), last[list(terminal)]),
        "timeouts": np.isin(np.arange(count), np.delete(last, list(terminal))),
    }


def states(lengths: tuple[int, ...] = (5, 7), seed: int = 0) -> dict:
    """Episodes in OGBench's layout."""
    rng = np.random.default_rng(seed)
    count = sum(lengths)
    return {
        "observations": rng.normal(size=(count, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, size=(count, 1)).astype(np.float32),
        "rewards": rng.normal(size=count).astype(np.float32),
        "masks": (rng.uniform(size=count) < 0.7).astype(np.float32),
        "terminals": np.isin(np.arange(count), np.cumsum(lengths) - 1),
    }


def save(path: Path, arrays: dict, **changes) -> Path:
    """Write a file; `changes` replace arrays, None removes one."""
    arrays = {key: array for key, array in (arrays | changes).items() if array is not None}
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for key, array in arrays.items():
                file[key] = array
    return path


def transitions(dataset):
    return BatchSampler(dataset, 1, discount=0.9).gather(torch.arange(len(dataset)))


# What is read


@pytest.mark.parametrize("suffix", [".npz", ".hdf5", ".h5"])
def test_steps_with_next_observations_are_transitions_one_for_one(tmp_path, suffix):
    arrays = steps()
    found = transitions(load_file(save(tmp_path / f"mine{suffix}", arrays), clip_actions=False))
    for key in ("observations", "next_observations", "actions", "rewards"):
        assert np.array_equal(found[key].numpy(), arrays[key]), key
    assert np.array_equal(found["masks"].numpy(), 1 - arrays["terminals"].astype(np.float32))


def test_without_next_observations_steps_that_were_cut_off_are_successors_only(tmp_path):
    arrays = steps()
    found = transitions(load_file(save(tmp_path / "mine.hdf5", arrays, next_observations=None), clip_actions=False))
    assert np.array_equal(found["observations"].numpy(), arrays["observations"][:-1])
    assert found["masks"].tolist() == [1, 1, 1, 0, 1, 1, 1, 1, 1]
    inside = np.array([0, 1, 2, 4, 5, 6, 7, 8])
    assert np.array_equal(found["next_observations"].numpy()[inside], arrays["observations"][inside + 1])


def test_the_terminal_of_the_last_row_keeps_its_transition(tmp_path):
    arrays = steps((5,))
    found = transitions(load_file(save(tmp_path / "mine.hdf5", arrays, next_observations=None)))
    assert found["masks"].tolist() == [1, 1, 1, 1, 0]
    assert np.array_equal(found["rewards"].numpy(), arrays["rewards"])


@pytest.mark.parametrize("suffix", [".npz", ".hdf5"])
def test_states_are_read_as_they_stand(tmp_path, suffix):
    arrays = states()
    dataset = load_file(save(tmp_path / f"mine{suffix}", arrays))
    wanted = TransitionDataset.from_arrays(**arrays, name="mine")
    assert dataset.name == "mine" and len(dataset.checksum) == 64
    for key, tensor in transitions(wanted).items():
        assert torch.equal(tensor, transitions(dataset)[key]), key


def test_columns_of_shape_n_by_1_and_other_dtypes_are_converted(tmp_path):
    arrays = states()
    converted = {key: array.astype(np.float64) for key, array in arrays.items()}
    converted |= {key: converted[key][:, None] for key in ("rewards", "masks", "terminals")}
    one, other = (load_file(save(tmp_path / name, a)) for name, a in (("a.npz", arrays), ("b.npz", converted)))
    assert torch.equal(transitions(one)["rewards"], transitions(other)["rewards"])
    assert torch.equal(one.masks, other.masks)


# What is reported


def test_everything_that_is_wrong_is_told_at_once_with_the_rows_of_the_file(tmp_path):
    arrays = steps((4, 1, 5), terminal=())
    arrays["observations"][[2, 7], 1] = np.nan
    arrays["rewards"][3] = np.inf
    arrays["actions"][[0, 9]] = 3.0
    arrays["terminals"] = np.where(np.arange(10) == 8, 5, 0)
    path = save(tmp_path / "mine.hdf5", arrays, next_observations=None)
    wanted = [
        "observations has NaN or infinite values (as float32) in rows 2, 7",
        "rewards has NaN or infinite values (as float32) in row 3",
        "actions leave [-1, 1] (up to 3) in rows 0, 9; rescale",
        "terminals must be 0 or 1, but is not in row 8",
        "episodes of one step that was cut off hold no transition: remove rows 4, 9",
    ]
    report = check_file(path)
    assert len(report.problems) == len(wanted) and not report.summary
    with pytest.raises(DataError, match=r"mine.hdf5 cannot be used") as error:
        load_file(path)
    for text in wanted:
        assert any(text in problem for problem in report.problems), text
        assert text in str(error.value)


def test_shapes_keys_and_kinds_that_are_wrong(tmp_path):
    path = save(
        tmp_path / "mine.npz",
        states(),
        observations=np.zeros(12),
        actions=np.zeros((11, 1)),
        rewards=np.array(["a"] * 12),
        terminals=None,
    )
    problems = "\n".join(check_file(path).problems)
    assert "there is no terminals; there are observations, actions, rewards, masks" in problems
    assert "observations has shape (12,); it must be (N, *O); reshape it to (N, 1)" in problems
    assert "rewards has dtype <U1; it must hold real numbers" in problems
    assert "numbers of rows differ: actions 11, masks 12" in problems


def test_missing_ends_of_episodes(tmp_path):
    never = np.zeros(10, bool)
    steps_file = save(tmp_path / "a.hdf5", steps(), terminals=never, timeouts=None, next_observations=None)
    assert check_file(steps_file).problems == [
        "there is no episode end: terminals or timeouts must be true at the last step of each episode"
    ]
    states_file = save(tmp_path / "b.npz", states(), terminals=np.arange(12) == 4)
    assert check_file(states_file).problems == [
        "the last row (11) does not end an episode: terminals must be true at the last row of each"
    ]
    lone = save(tmp_path / "c.npz", states(), terminals=np.isin(np.arange(12), [0, 5, 6, 11]))
    assert check_file(lone).problems == ["episodes of one row hold no transition: remove rows 0, 6"]


def test_next_observations_that_do_not_continue(tmp_path):
    arrays = steps()
    arrays["next_observations"][[1, 6]] += 1
    assert "not the observations of the row after within an episode in rows 1, 6" in "".join(
        check_file(save(tmp_path / "a.hdf5", arrays)).problems
    )
    assert "next_observations have shape (10, 2)" in "".join(
        check_file(save(tmp_path / "b.hdf5", steps(), next_observations=np.zeros((10, 2)))).problems
    )


def test_what_is_not_wrong_but_should_be_known_is_noted(tmp_path):
    arrays = steps((4, 1, 5), terminal=(1,))
    arrays["observations"] = np.round(10 * arrays["observations"]).astype(np.int64)
    arrays["rewards"] = arrays["rewards"].astype(np.float64)
    arrays["timeouts"][-1] = False
    report = check_file(save(tmp_path / "mine.hdf5", arrays, next_observations=None))
    assert report.problems == [] and report.layout == "steps"
    assert report.notes == [
        "observations is int64; it is converted to float32, exactly",
        "rewards is float64; it is converted to float32, rounded to about 7 digits",
        "the last row (9) ends no episode: it is taken as cut off there",
        "there are no next_observations: 2 steps at which an episode was cut off only serve as the state after the "
        "step before",
        "there are episodes of one step: row 4",
    ]
    assert report.arrays["observations"] == {"shape": [10, 3], "dtype": "int64"}
    assert report.summary["transitions"] == 8
    assert report.summary["rewards"]["terminations"] == 1


def test_without_rewards_and_masks_a_file_of_states_still_serves_to_clone(tmp_path):
    path = save(tmp_path / "mine.npz", states(), rewards=None, masks=None)
    assert [note.partition(":")[0] for note in check_file(path).notes] == [
        "there are no rewards",
        "there are no masks",
    ]
    assert transitions(load_file(path))["masks"].min() == 1


def test_float64_beyond_float32_is_found(tmp_path):
    arrays = states()
    arrays["rewards"] = arrays["rewards"].astype(np.float64)
    arrays["rewards"][3] = 1e300
    assert (
        "rewards has NaN or infinite values (as float32) in row 3"
        in check_file(save(tmp_path / "mine.npz", arrays)).problems
    )


def test_a_minari_dataset_is_checked_by_episode_and_step(tmp_path):
    one, two = episode(5, 1), episode(5, 2)
    one["observations"][3] = np.nan
    two["actions"][[0, 4]] = 7
    report = check_file(write(tmp_path / "set", [episode(1), one, two]))
    assert report.problems == [
        "episode 1: observations has NaN or infinite values in row 3",
        "episode 2: actions leave the action space in rows 0, 4",
    ]
    assert "there are episodes of one step: number 0" in report.notes
    sound = check_file(write(tmp_path / "sound", [episode(5)]))
    assert (sound.layout, sound.problems, sound.summary["transitions"]) == ("minari", [], 5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.npz", "There is no file"),
        ("mine.csv", r"is none of \.npz, \.hdf5 and \.h5"),
        ("empty", "is a folder, but not that of a Minari dataset"),
        ("damaged.npz", "cannot be read"),
        ("damaged.hdf5", "cannot be read"),
    ],
)
def test_files_that_cannot_be_read_at_all(tmp_path, name, message):
    path = tmp_path / name
    if name == "empty":
        path.mkdir()
    elif not name.startswith("none"):
        path.write_bytes(b"PK\x03\x04 half of it")
    for look in (load_file, check_file):
        with pytest.raises(DataError, match=message):
            look(path)


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    path = save(tmp_path / "mine.hdf5", steps())
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConfigError, match=r"pip install 'genpolicy\[d4rl\]'"):
        load_file(path)


# The command line


def run_cli(monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["genpolicy", *arguments])
    try:
        cli.main()
        code = 0
    except SystemExit as exit:
        code = int(exit.code or 0)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_data_check_prints_what_it_finds_and_ends_with_2_if_something_is_wrong(tmp_path, monkeypatch, capsys):
    code, output = run_cli(monkeypatch, capsys, "data", "check", str(save(tmp_path / "good.npz", states())))
    assert code == 0 and "Nothing is wrong." in output
    bad = save(tmp_path / "bad.npz", states(), actions=np.full((12, 1), 2.0))
    code, output = run_cli(monkeypatch, capsys, "data", "check", str(bad))
    assert code == 2 and "problem: actions leave [-1, 1] (up to 2) in rows 0, 1, 2, 3, 4 and 7 more" in output
    code, output = run_cli(monkeypatch, capsys, "data", "check", str(bad), "--json")
    assert code == 2 and len(json.loads(output)["problems"]) == 1


def test_data_convert_writes_the_target_and_refuses_to_replace_it(tmp_path, monkeypatch, capsys):
    source, target = save(tmp_path / "mine.npz", states()), tmp_path / "mine.hdf5"
    code, output = run_cli(monkeypatch, capsys, "data", "convert", str(source), str(target))
    assert code == 0 and output.strip() == str(target)
    assert torch.equal(load_file(target).rewards, load_file(source).rewards)
    code, output = run_cli(monkeypatch, capsys, "data", "convert", str(source), str(target))
    assert code == 2 and "exists already" in output


# Training


def pendulum_file(path: Path) -> Path:
    return save(path, steps((20, 30)))


def test_without_an_environment_training_needs_no_task_and_evaluates_nothing(tmp_path, caplog):
    path = pendulum_file(tmp_path / "mine.hdf5")
    run, result = train(compose([*SMALL, f"data.path={path}", f"run_dir={tmp_path / 'run'}"]))
    assert (result.state, result.last_eval) == ("completed", None)
    assert "there is no evaluation" in caplog.text
    assert run_task(run.path).name == "mine"


def test_in_an_environment_of_ones_own_it_is_scored_by_the_return_and_resumes(tmp_path):
    path = pendulum_file(tmp_path / "mine.hdf5")
    settings = [*SMALL, f"data.path={path}", "data.environment=Pendulum-v1", f"run_dir={tmp_path / 'run'}"]
    run, result = train(compose(settings))
    assert result.best is not None and result.best["metric"] == "evaluation/return"
    assert result.last_eval is not None and result.last_eval["evaluation/length"] == 200
    again, done = resume(stored_config(run.path))
    assert (again.path, done.updates) == (run.path, 0)


def test_a_minari_folder_is_scored_in_its_own_environment(tmp_path):
    folder = write(
        tmp_path / "set", [episode(20), episode(30, 1)], env="Pendulum-v1", ref_min_score=-1500.0, ref_max_score=-100.0
    )
    for name in (f"data.path={folder}", f"task='minari:{folder}'"):
        run, result = train(compose([*SMALL, name, f"run_dir={tmp_path / name[:4]}"]))
        assert result.best is not None and result.best["metric"] == "evaluation/score"
        low, high = -1500.0, -100.0
        assert result.last_eval is not None
        expected = 100 * (result.last_eval["evaluation/return"] - low) / (high - low)
        assert result.last_eval["evaluation/score"] == pytest.approx(expected)
        assert run_task(run.path).name == "minari:test/set-v0"


def test_a_validation_split_beside_the_file_is_used(tmp_path):
    save(tmp_path / "mine-val.npz", states(seed=1))
    path = save(tmp_path / "mine.npz", states())
    run, _ = train(compose([*SMALL, "trainer.log_every=2", f"data.path={path}", f"run_dir={tmp_path / 'run'}"]))
    assert "validation/" in (run.path / "train.jsonl").read_text()


def test_an_environment_that_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    path = save(tmp_path / "mine.npz", states())
    settings = [*SMALL, f"data.path={path}", f"run_dir={tmp_path / 'run'}"]
    for environment, message in (
        ("MountainCarContinuous-v0", r"observations of shape \(2,\), the dataset \(3,\)"),
        ("CartPole-v1", "Supported are bounded boxes only"),
        ("Nothing-v0", "No simulator knows the environment 'Nothing-v0'"),
        ("no_such_module:Thing-v0", "No simulator knows the environment 'no_such_module:Thing-v0'"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(compose([*settings, f"data.environment='{environment}'"]))
    assert not (tmp_path / "run").exists()


def test_what_is_missing_is_said():
    with pytest.raises(ConfigError, match=r"No task is given(?s:.*)data.path"):
        train(compose(list(SMALL)))
    with pytest.raises(ConfigError, match="is scored in 'd4rl/door'"):
        with_environment(get_task("door-human-v1"), "Pendulum-v1")
    with pytest.raises(DataError, match="There is no file"):
        train(compose([*SMALL, "data.path=/nowhere/mine.npz"]))


def test_an_environment_of_ones_own_gives_no_score(tmp_path):
    path = save(tmp_path / "mine.npz", states())
    task = with_environment(own_task(path), "Pendulum-v1")
    assert dataclasses.replace(task, environment="") == dataclasses.replace(own_task(path), difference=task.difference)
    with Evaluator(task, episodes=1) as evaluator:
        result = evaluator.evaluate(lambda observations, _: np.full((len(observations), 1), ACTION_EPSILON), step=0)
    assert result.scores is None and -3000 < result.returns[0] < 0
