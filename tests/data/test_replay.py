import numpy as np
import pytest
import torch

from genpolicy.data import BatchSampler, TransitionDataset
from genpolicy.data.replay import EpisodeStore, ReplaySampler
from genpolicy.errors import CheckpointError, ConfigError

LENGTHS = (3, 1, 6, 4)  # transitions of the episodes
RETURNS = [(1, 1), (3, 1), (2, 2), (5, 3)]  # n_step, action_chunk


def make_dataset(seed: int = 0) -> TransitionDataset:
    rng = np.random.default_rng(seed)
    rows = sum(length + 1 for length in LENGTHS)
    ends = np.zeros(rows, bool)
    ends[np.cumsum([length + 1 for length in LENGTHS]) - 1] = True
    masks = (rng.uniform(size=rows) > 0.2).astype(np.float32)
    actions = rng.uniform(-1, 1, (rows, 3))
    actions[ends] = actions[np.roll(ends, -1)]  # a file's last rows have actions of their own, a store's repeat
    return TransitionDataset.from_arrays(
        rng.normal(size=(rows, 2)), actions, rng.normal(size=rows), masks, ends, name="toy"
    )


def replay(dataset: TransitionDataset, store: EpisodeStore, rows: int | None = None) -> None:
    """Add a dataset's episodes to a store, row by row, as if they happened; only the first `rows` transitions."""
    first = count = 0
    for end in dataset.episode_ends.tolist():
        store.begin(dataset.observations[first])
        for row in range(first, end):
            if count == rows:
                return
            count += 1
            store.add(
                dataset.actions[row],
                float(dataset.rewards[row]),
                float(dataset.masks[row]),
                dataset.observations[row + 1],
            )
        store.end()
        first = end + 1


@pytest.mark.parametrize(("n_step", "chunk"), RETURNS)
def test_finished_episodes_give_the_batches_that_a_dataset_of_them_gives(n_step: int, chunk: int) -> None:
    dataset = make_dataset()
    returns = {"discount": 0.9, "n_step": n_step, "action_chunk": chunk}
    sampler, store = BatchSampler(dataset, 1, **returns), EpisodeStore((2,), 3, **returns)
    replay(dataset, store)
    every = torch.arange(len(store))
    assert len(store) == len(sampler)
    theirs, ours = sampler.gather(every), store.gather(every)
    assert ours.keys() == theirs.keys()
    for key in theirs:
        assert ours[key].dtype == theirs[key].dtype == torch.float32
        torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=1e-6)


def running_store(**returns) -> EpisodeStore:
    """One running episode: states 0, 1, 2, 3, actions .0, .1, .2, rewards 1, 2, 4."""
    store = EpisodeStore((1,), 1, discount=0.5, **returns)
    store.begin([0.0])
    for step, reward in enumerate((1.0, 2.0, 4.0)):
        store.add([step / 10], reward, 1.0, [step + 1.0])
    return store


def test_a_running_episode_counts_as_ending_at_its_newest_row() -> None:
    store = running_store(n_step=2)
    batch = store.gather(torch.arange(len(store)))
    assert batch["rewards"].tolist() == [2.0, 4.0, 4.0]  # 1 + 2/2, 2 + 4/2, 4 alone
    assert batch["discounts"].tolist() == [0.25, 0.25, 0.5]
    assert batch["next_observations"].flatten().tolist() == [2.0, 3.0, 3.0]
    assert batch["next_actions"].flatten().tolist() == pytest.approx([0.2, 0.2, 0.2])
    store.add([0.3], 8.0, 0.0, [4.0])
    batch = store.gather(torch.arange(len(store)))
    assert batch["rewards"].tolist() == [2.0, 4.0, 8.0, 8.0]
    assert batch["masks"].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert batch["next_actions"].flatten().tolist() == pytest.approx([0.2, 0.3, 0.3, 0.3])


def test_a_chunk_can_be_drawn_when_its_last_action_is_there() -> None:
    store = EpisodeStore((1,), 1, discount=0.5, n_step=2, action_chunk=2)
    store.begin([0.0])
    store.add([0.1], 1.0, 1.0, [1.0])
    assert len(store) == 0
    store.add([0.2], 1.0, 1.0, [2.0])
    assert len(store) == 1
    assert store.gather(torch.tensor([0]))["actions"].flatten().tolist() == pytest.approx([0.1, 0.2])
    store.begin([9.0])  # a new episode: no chunk leads across
    store.add([0.3], 1.0, 1.0, [8.0])
    assert len(store) == 1


def test_the_store_grows_and_keeps_everything() -> None:
    store = EpisodeStore((1,), 1, discount=1.0)
    for episode in range(30):
        store.begin([0.0])
        for step in range(100):
            store.add([0.5], episode * 100 + step, 1.0, [step + 1.0])
    batch = store.gather(torch.arange(len(store)))
    assert batch["rewards"].tolist() == list(range(3000))
    assert batch["next_observations"].flatten().tolist() == [float(step + 1) for _ in range(30) for step in range(100)]


@pytest.mark.parametrize("rows", [0, 4, 5, 11])
def test_a_restored_sampler_goes_on_with_the_same_batches(rows: int) -> None:
    dataset = make_dataset()

    def make() -> ReplaySampler:
        store = EpisodeStore((2,), 3, discount=0.9, n_step=3)
        offline = BatchSampler(dataset, 8, discount=0.9, n_step=3, seed=1)
        return ReplaySampler(store, offline, 8, seed=1)

    ours, theirs = make(), make()
    replay(make_dataset(1), theirs.store, rows)
    for _ in range(3):
        theirs.sample()
    ours.load_state_dict({name: tensor.clone() for name, tensor in theirs.state_dict().items()})
    assert ours.store.running == theirs.store.running
    for sampler in (ours, theirs):
        if not sampler.store.running:
            sampler.store.begin([0.0, 0.0])
        sampler.store.add([0.1, 0.2, 0.3], 1.0, 0.0, [1.0, 1.0])
    for _ in range(3):
        one, two = ours.sample(), theirs.sample()
        assert all(one[key].equal(two[key]) for key in two)


def offline_and_online(sampling: str, batch_size: int = 9) -> ReplaySampler:
    """Offline rewards are 0, online ones 1; 30 and 10 transitions."""

    def arrays(rows: int, reward: float) -> tuple:
        ends = np.arange(rows) == rows - 1
        ones = np.ones(rows)
        return ones[:, None], 0.0 * ones[:, None], reward * ones, ones, ends

    store = EpisodeStore((1,), 1, discount=0.9)
    replay(TransitionDataset.from_arrays(*arrays(11, 1.0), name="online"), store)
    offline = BatchSampler(TransitionDataset.from_arrays(*arrays(31, 0.0), name="offline"), batch_size, discount=0.9)
    return ReplaySampler(store, offline, batch_size, sampling=sampling)  # pyright: ignore[reportArgumentType]


def test_appended_transitions_are_as_likely_as_the_datasets() -> None:
    sampler = offline_and_online("append")
    fresh = torch.cat([sampler.sample()["rewards"] for _ in range(400)])
    assert len(fresh) == 3600
    assert fresh.mean().item() == pytest.approx(0.25, abs=0.03)  # four standard errors


def test_balanced_batches_are_half_online() -> None:
    sampler = offline_and_online("balanced")
    for _ in range(3):
        assert sampler.sample()["rewards"].tolist() == [0.0] * 5 + [1.0] * 4


def test_online_batches_leave_the_dataset_out() -> None:
    assert offline_and_online("online").sample()["rewards"].tolist() == [1.0] * 9


@pytest.mark.parametrize("sampling", ["append", "balanced", "online"])
def test_before_the_first_online_transition_batches_are_those_of_the_dataset_alone(sampling: str) -> None:
    dataset = make_dataset()
    alone, inner = (BatchSampler(dataset, 4, discount=0.9, seed=3) for _ in range(2))
    store = EpisodeStore((2,), 3, discount=0.9)
    sampler = ReplaySampler(store, inner, 4, sampling=sampling)  # pyright: ignore[reportArgumentType]
    assert sampler.ready
    for _ in range(3):
        ours, theirs = sampler.sample(), alone.sample()
        assert all(ours[key].equal(theirs[key]) for key in theirs)


def test_without_a_dataset_there_is_nothing_to_draw_at_first() -> None:
    store = EpisodeStore((1,), 1, discount=0.9)
    sampler = ReplaySampler(store, None, 4, sampling="online")
    assert not sampler.ready
    store.begin([0.0])
    assert not sampler.ready
    store.add([0.0], 1.0, 1.0, [1.0])
    assert sampler.ready and sampler.sample()["rewards"].tolist() == [1.0] * 4


def test_what_cannot_be_drawn_is_refused() -> None:
    store = EpisodeStore((2,), 3, discount=0.9)
    with pytest.raises(ConfigError, match=r"there is no dataset; use online\.sampling=online"):
        ReplaySampler(store, None, 4, sampling="balanced")
    with pytest.raises(ConfigError, match="batch_size is 1"):
        ReplaySampler(store, BatchSampler(make_dataset(), 1, discount=0.9), 1, sampling="balanced")


def test_a_state_of_other_shapes_is_refused_and_nothing_changes() -> None:
    store = EpisodeStore((3,), 3, discount=0.9)
    with pytest.raises(CheckpointError, match=r"observations of shape \(1,\), this run's are \(3,\)"):
        store.load_state_dict(running_store().state_dict())
    with pytest.raises(CheckpointError, match="must be"):
        store.load_state_dict({"rewards": torch.zeros(1)})
    assert len(store) == 0
