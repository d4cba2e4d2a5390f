import numpy as np
import pytest
import torch

from genpolicy.data import BatchSampler, TransitionDataset, _validation
from genpolicy.data import dataset as dataset_module
from genpolicy.errors import CheckpointError, ConfigError, DataError

LENGTHS = (7, 2, 12, 3)  # rows of the episodes


def make_arrays(lengths=LENGTHS, observation_dim=3, seed=0):
    """Random episodes; the first component of an observation is its row."""
    generator = np.random.default_rng(seed)
    rows = sum(lengths)
    terminals = np.zeros(rows, bool)
    terminals[np.cumsum(lengths) - 1] = True
    observations = generator.normal(size=(rows, observation_dim)).astype(np.float32)
    observations[:, 0] = np.arange(rows)
    return {
        "observations": observations,
        "actions": generator.uniform(-0.9, 0.9, size=(rows, 2)).astype(np.float32),
        "rewards": generator.normal(size=rows).astype(np.float32),
        "masks": (generator.random(rows) > 0.25).astype(np.float32),
        "terminals": terminals,
    }


def make_dataset(**options):
    return TransitionDataset.from_arrays(**make_arrays(**options), name="toy")


def everything(sampler):
    return sampler.gather(torch.arange(len(sampler.dataset)))


# Storage


def test_rows_are_stored_once_and_without_a_copy():
    arrays = make_arrays()
    dataset = TransitionDataset.from_arrays(**arrays, name="toy")
    sampler = BatchSampler(dataset, 4, discount=0.9)
    assert np.shares_memory(dataset.observations.numpy(), arrays["observations"])
    tables = [value for value in vars(sampler).values() if isinstance(value, torch.Tensor)]
    assert sampler.dataset is dataset
    assert all(table.ndim == 1 for table in tables)


def test_counts_and_shapes():
    dataset = make_dataset()
    assert len(dataset) == 6 + 1 + 11 + 2
    assert dataset.num_episodes == 4
    assert dataset.episode_ends.tolist() == [6, 8, 20, 23]
    assert (dataset.observation_shape, dataset.action_dim) == ((3,), 2)
    assert {dataset.observations.dtype, dataset.actions.dtype, dataset.masks.dtype} == {torch.float32}
    assert dataset.to("cpu") is dataset


def test_observations_may_have_several_axes_and_other_number_types():
    arrays = make_arrays()
    arrays["observations"] = np.arange(24 * 8, dtype=np.float64).reshape(24, 2, 4)
    dataset = TransitionDataset.from_arrays(**arrays, name="toy")
    assert dataset.observation_shape == (2, 4)
    batch = BatchSampler(dataset, 5, discount=0.9).sample()
    assert batch["observations"].shape == batch["next_observations"].shape == (5, 2, 4)
    assert batch["observations"].dtype == torch.float32


def test_actions_are_clipped_just_inside_the_bounds_or_at_them():
    arrays = make_arrays()
    arrays["actions"][:3, 0] = [1.0, -1.0 - 1e-6, 1.0 + 9e-6]
    clipped = TransitionDataset.from_arrays(**arrays, name="toy").actions
    assert clipped[:3, 0].tolist() == np.float32([1 - 1e-5, -1 + 1e-5, 1 - 1e-5]).tolist()
    assert torch.equal(clipped[3:], torch.from_numpy(arrays["actions"][3:]))
    assert TransitionDataset.from_arrays(**arrays, name="toy", clip_actions=False).actions.abs().max() == 1.0
    assert arrays["actions"][2, 0] > 1.0  # the caller's array is left alone


def test_actions_are_clipped_in_place_if_they_are_given_away_and_copied_only_if_need_be():
    arrays = make_arrays()
    inside = TransitionDataset.from_arrays(**arrays, name="toy").actions.numpy()
    assert np.shares_memory(inside, arrays["actions"])
    arrays["actions"][3, 0] = 1.0
    assert not np.shares_memory(TransitionDataset.from_arrays(**arrays, name="toy").actions.numpy(), arrays["actions"])
    given = TransitionDataset.from_arrays(**arrays, name="toy", handed_over=True).actions.numpy()
    assert np.shares_memory(given, arrays["actions"]) and given.max() < 1.0


def test_images_stay_bytes():
    arrays = make_arrays()
    arrays["observations"] = np.arange(24 * 8, dtype=np.uint8).reshape(24, 2, 4)
    dataset = TransitionDataset.from_arrays(**arrays, name="toy")
    assert dataset.observations.dtype == torch.uint8
    assert np.shares_memory(dataset.observations.numpy(), arrays["observations"])
    assert BatchSampler(dataset, 5, discount=0.9).sample()["next_observations"].dtype == torch.uint8


@pytest.mark.parametrize("dtype", [bool, np.int64, np.float64])
def test_ends_of_episodes_may_be_of_any_number_type(dtype):
    arrays = make_arrays()
    arrays["terminals"] = arrays["terminals"].astype(dtype)
    assert TransitionDataset.from_arrays(**arrays, name="toy").episode_ends.tolist() == [6, 8, 20, 23]


def test_checks_in_pieces_report_rows_of_the_whole(monkeypatch):
    monkeypatch.setattr(_validation, "CHUNK", 5)
    arrays = make_arrays()
    arrays["observations"][[4, 9, 17], 1] = np.nan
    arrays["actions"][[6, 20], 0] = [-2.0, 3.0]
    arrays["masks"][21] = 0.5
    arrays["terminals"][-1] = False
    with pytest.raises(DataError) as error:
        TransitionDataset.from_arrays(**arrays, name="spoilt")
    for message in (
        "observations has NaN or infinite values in rows 4, 9, 17",
        "actions leave [-1, 1] (up to 3) in rows 6, 20",
        "masks must be 0 or 1, but is not in row 21",
        "the last row (23) does not end an episode",
    ):
        assert message in str(error.value)


def test_mean_and_deviation_are_those_of_the_observations_that_transitions_start_from(monkeypatch):
    monkeypatch.setattr(dataset_module, "_STATISTICS_CHUNK", 5)
    arrays = make_arrays()
    arrays["observations"][:, 1] += 1e4
    arrays["observations"][:, 2] = 5.0
    arrays["observations"][arrays["terminals"], 1] = -1e6
    mean, std = TransitionDataset.from_arrays(**arrays, name="toy").observation_mean_std()
    starts = arrays["observations"][~arrays["terminals"]].astype(np.float64)
    torch.testing.assert_close(mean, torch.from_numpy(starts.mean(0)).float())
    torch.testing.assert_close(std, torch.from_numpy(starts.std(0)).float(), rtol=1e-5, atol=1e-6)
    assert std[2] == 0


def test_summary_counts_transitions_only():
    arrays = make_arrays()
    arrays["rewards"][arrays["terminals"]] = 1e6
    arrays["masks"][:] = 1
    arrays["masks"][[0, 6]] = 0  # row 6 ends an episode
    dataset = TransitionDataset.from_arrays(**arrays, name="toy", checksum="abc")
    summary = dataset.summary()
    assert (summary["rows"], summary["transitions"], summary["episodes"]) == (24, 20, 4)
    assert summary["episode_length"] == {"min": 1, "mean": 5.0, "max": 11}
    assert summary["rewards"]["max"] == arrays["rewards"][~arrays["terminals"]].max()
    assert summary["rewards"]["terminations"] == 1
    assert (summary["observation_shape"], summary["action_dim"], summary["checksum"]) == ([3], 2, "abc")


def test_the_checksum_of_arrays_tells_them_apart():
    changed = make_arrays()
    changed["rewards"][3] += 1
    other = TransitionDataset.from_arrays(**changed, name="toy")
    assert make_dataset().checksum == make_dataset().checksum != other.checksum
    assert len(other.checksum) == 64


# Bad arrays


def nan_in_observations(arrays):
    arrays["observations"][[4, 9], 1] = [np.nan, np.inf]


def many_bad_rewards(arrays):
    arrays["rewards"][1:9] = np.nan


def overflow(arrays):
    arrays["observations"] = arrays["observations"].astype(np.float64)
    arrays["observations"][7, 0] = 1e300


def short_actions(arrays):
    arrays["actions"] = arrays["actions"][:-1]


def flat_actions(arrays):
    arrays["actions"] = arrays["actions"][:, 0]


def no_end(arrays):
    arrays["terminals"][:] = False


def open_end(arrays):
    arrays["terminals"][-1] = False


def single_row(arrays):
    arrays["terminals"][[10, 11]] = True


def large_action(arrays):
    arrays["actions"][5, 1] = 1.5


def half_mask(arrays):
    arrays["masks"][2] = 0.5


def words(arrays):
    arrays["rewards"] = np.array(["a"] * 24)


def empty(arrays):
    for key in arrays:
        arrays[key] = arrays[key][:0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (nan_in_observations, "observations has NaN or infinite values in rows 4, 9"),
        (many_bad_rewards, "rewards has NaN or infinite values in rows 1, 2, 3, 4, 5 and 3 more"),
        (overflow, "observations has NaN or infinite values in row 7"),
        (short_actions, "numbers of rows differ: observations 24, actions 23"),
        (flat_actions, r"actions has shape \(24,\); it must be \(R, A\)"),
        (no_end, "there is no episode end"),
        (open_end, r"the last row \(23\) does not end an episode"),
        (single_row, "episodes of one row .* row 11"),
        (large_action, r"actions leave \[-1, 1\] \(up to 1.5\) in row 5"),
        (half_mask, "masks must be 0 or 1, but is not in row 2"),
        (words, "rewards has dtype <U1; it must hold real numbers"),
        (empty, "there are no rows"),
    ],
)
def test_bad_arrays_are_refused_with_the_place(spoil, message):
    arrays = make_arrays()
    spoil(arrays)
    with pytest.raises(DataError, match=message) as error:
        TransitionDataset.from_arrays(**arrays, name="spoilt")
    assert "'spoilt'" in str(error.value)


def test_one_error_lists_everything_that_is_wrong():
    arrays = make_arrays()
    for spoil in (nan_in_observations, large_action, half_mask, open_end):
        spoil(arrays)
    with pytest.raises(DataError) as error:
        TransitionDataset.from_arrays(**arrays, name="spoilt")
    assert str(error.value).count("\n  - ") == 4


# Batches


@pytest.mark.parametrize("n_step", [1, 2, 3, 7, 50])
def test_n_step_tables_agree_with_a_plain_loop(n_step):
    arrays, discount = make_arrays(), 0.9
    arrays["masks"][[6, 23]] = 0  # done in the last row of an episode: no transition starts there
    dataset = TransitionDataset.from_arrays(**arrays, name="toy")
    batch = everything(BatchSampler(dataset, 4, discount=discount, n_step=n_step))
    ends = np.flatnonzero(arrays["terminals"])
    starts = [row for row in range(24) if row not in ends]
    assert batch["observations"][:, 0].tolist() == starts
    for position, row in enumerate(starts):
        last = min(row + n_step, ends[ends >= row][0])
        total, mask = 0.0, 1.0
        for k in range(last - row):
            total += discount**k * float(arrays["rewards"][row + k])
            if arrays["masks"][row + k] == 0:
                mask = 0.0
                break
        # Summed in double precision in this order and rounded once: the last bit agrees too.
        assert batch["rewards"][position] == np.float32(total)
        assert batch["masks"][position].item() == mask
        assert batch["discounts"][position] == np.float32(discount ** (last - row))
        assert batch["next_observations"][position, 0].item() == last


@pytest.mark.parametrize(("action_chunk", "n_step"), [(2, 2), (3, 5)])
def test_chunks_agree_with_a_plain_loop(action_chunk, n_step):
    arrays, discount = make_arrays(), 0.9
    dataset = TransitionDataset.from_arrays(**arrays, name="toy", clip_actions=False)
    one_step = BatchSampler(dataset, 4, discount=discount, n_step=n_step)
    sampler = BatchSampler(dataset, 4, discount=discount, n_step=n_step, action_chunk=action_chunk)
    ends = np.flatnonzero(arrays["terminals"])
    end_of = {row: ends[ends >= row][0] for row in range(24)}
    starts = [row for row in range(24) if end_of[row] - row >= action_chunk]
    batch = sampler.gather(torch.arange(len(starts)))
    assert batch["observations"][:, 0].tolist() == starts
    assert batch["actions"].shape == batch["next_actions"].shape == (len(starts), action_chunk, 2)
    for position, row in enumerate(starts):
        last = min(row + n_step, end_of[row])
        assert np.array_equal(batch["actions"][position], arrays["actions"][row : row + action_chunk])
        assert batch["next_observations"][position, 0] == last
        next_rows = [min(last + k, end_of[row]) for k in range(action_chunk)]
        assert np.array_equal(batch["next_actions"][position], arrays["actions"][next_rows])
    transitions = [row for row in range(24) if row not in ends]
    same = everything(one_step)
    for key in ("rewards", "masks", "discounts"):
        assert torch.equal(batch[key], same[key][[transitions.index(row) for row in starts]])


def test_chunks_that_cannot_be_are_refused():
    dataset = make_dataset()
    with pytest.raises(ConfigError, match=r"action_chunk is 3; it must be at least 1 and at most n_step \(2\)"):
        BatchSampler(dataset, 4, discount=0.9, n_step=2, action_chunk=3)
    with pytest.raises(ConfigError, match=r"action_chunk is 50, but no episode of .* has so many transitions"):
        BatchSampler(dataset, 4, discount=0.9, n_step=50, action_chunk=50)


def test_one_step_batches_are_the_stored_values_exactly():
    arrays = make_arrays()
    dataset = TransitionDataset.from_arrays(**arrays, name="toy")
    batch = everything(BatchSampler(dataset, 4, discount=0.99))
    starts = np.flatnonzero(~arrays["terminals"])
    for key in ("observations", "actions", "rewards", "masks"):
        assert np.array_equal(batch[key].numpy(), arrays[key][starts])
    assert np.array_equal(batch["next_observations"].numpy(), arrays["observations"][starts + 1])
    assert np.array_equal(batch["next_actions"].numpy(), arrays["actions"][starts + 1])
    assert (batch["discounts"] == np.float32(0.99)).all()


def test_batches_are_uniform_over_the_transitions():
    dataset = make_dataset()
    batch = BatchSampler(dataset, 40_000, discount=0.9).sample()
    counts = torch.bincount(batch["observations"][:, 0].long(), minlength=24)
    expected = 40_000 / 20
    assert counts[dataset.episode_ends].sum() == 0
    assert (counts[dataset.transition_rows()] - expected).abs().max() < 5 * expected**0.5
    assert torch.equal(batch["next_observations"][:, 0], batch["observations"][:, 0] + 1)


def test_a_batch_is_new_memory_of_float32():
    dataset = make_dataset()
    sampler = BatchSampler(dataset, 8, discount=0.9, n_step=3)
    before = dataset.observations.clone()
    batch = sampler.sample()
    assert {key: tuple(value.shape) for key, value in batch.items()} == {
        "observations": (8, 3),
        "actions": (8, 2),
        "next_observations": (8, 3),
        "next_actions": (8, 2),
        "rewards": (8,),
        "masks": (8,),
        "discounts": (8,),
    }
    for value in batch.values():
        assert value.dtype == torch.float32 and value.is_contiguous()
        value.fill_(7)
    assert torch.equal(dataset.observations, before)
    assert not any((value == 7).all() for value in sampler.sample().values())


def test_a_restored_sampler_goes_on_with_the_same_batches():
    sampler = BatchSampler(make_dataset(), 16, discount=0.9, seed=3)
    sampler.sample()
    state = {key: value.clone() for key, value in sampler.state_dict().items()}
    expected = [sampler.sample() for _ in range(3)]
    restored = BatchSampler(make_dataset(), 16, discount=0.9, seed=4)
    assert not torch.equal(restored.sample()["observations"], expected[0]["observations"])
    restored.load_state_dict(state)
    for batch in expected:
        again = restored.sample()
        assert all(torch.equal(again[key], value) for key, value in batch.items())


def test_batches_neither_use_nor_change_the_global_generator():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = BatchSampler(make_dataset(), 16, discount=0.9, seed=3).sample()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    again = BatchSampler(make_dataset(), 16, discount=0.9, seed=3).sample()
    assert torch.equal(first["observations"], again["observations"])


@pytest.mark.parametrize(
    ("state", "message"),
    [({}, "must be the entry 'generator'"), ({"generator": torch.zeros(3, dtype=torch.uint8)}, "'cpu'")],
)
def test_a_state_that_does_not_fit_is_refused(state, message):
    with pytest.raises(CheckpointError, match=message):
        BatchSampler(make_dataset(), 16, discount=0.9).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"n_step": 0}, "n_step is 0"),
        ({"discount": 1.5}, "discount is 1.5"),
        ({"discount": float("nan")}, "discount is nan"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        BatchSampler(make_dataset(), **{"batch_size": 4, "discount": 0.9, **options})
