import math

import pytest
import torch

from genpolicy.policies.bc_weight import BCScheduleConfig, BCWeight

INITIAL = 10.0


def adaptive(*, total_steps: int = 1000, **options: object) -> BCWeight:
    options = {"interval": 10, "window": 4, "warmup_fraction": 0.0} | options
    return BCWeight(BCScheduleConfig(kind="adaptive", **options), initial=INITIAL, total_steps=total_steps)


def run(weight: BCWeight, fits: list[float], *, every: int = 10) -> tuple[list[float], dict]:
    """Weights used at steps 10, 20, ... with the given fits, and the last state."""
    state, used = weight.initial_state(), []
    for index, fit in enumerate(fits, start=1):
        now, new = weight(torch.tensor(fit), state | {"step": torch.tensor(index * every)})
        used.append(now.item())
        state = new
    return used, state


def test_fixed_weight_never_changes_and_has_no_state() -> None:
    weight = BCWeight(BCScheduleConfig(), initial=INITIAL, total_steps=10)
    assert weight.initial_state() == {}
    for step in (0, 5, 100):
        used, state = weight(torch.tensor(1e6), {"step": torch.tensor(step)})
        assert (used.item(), state) == (INITIAL, {})


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 10.0), (25, 1 + 4.5 * (1 + math.cos(math.pi / 4))), (50, 5.5), (100, 1.0), (150, 1.0)],
)
def test_cosine_falls_to_a_tenth_and_stays_there(step: int, expected: float) -> None:
    weight = BCWeight(BCScheduleConfig(kind="cosine"), initial=INITIAL, total_steps=100)
    used, state = weight(torch.tensor(0.0), {"step": torch.tensor(step)})
    assert state == {}
    # the schedule is computed in float32, from an integer step
    assert used.item() == pytest.approx(expected, rel=1e-6)


def test_flat_losses_leave_the_weight_alone_while_the_window_fills() -> None:
    used, state = run(adaptive(window=20), [1.0] * 30)
    assert used == [INITIAL] * 30
    assert state["bc_count"].item() == 20


def test_the_padded_average_raises_the_weight_while_the_window_fills() -> None:
    """The reference averages the empty places: the sum of its first `count` places, all 0, divided by `count`."""
    used, _ = run(adaptive(window=20, padded_average=True), [1.0] * 30)
    # up to 10 records the first `count` of 20 places are empty; with 11 or more the average is at least 2 / 11
    expected = [INITIAL * 1.2 ** max(0, min(index, 11) - 1) for index in range(30)]
    for found, value in zip(used, expected, strict=True):
        assert found == pytest.approx(value)


def test_a_high_loss_raises_the_weight_and_a_low_one_lowers_it() -> None:
    used, _ = run(adaptive(), [1.0, 1.0, 5.1])
    assert used == [10.0, 10.0, pytest.approx(12.0)]
    used, _ = run(adaptive(), [1.0, 1.0, 0.19])
    assert used == [10.0, 10.0, pytest.approx(8.0)]
    for within in (4.9, 0.21):
        used, _ = run(adaptive(), [1.0, 1.0, within])
        assert used == [10.0, 10.0, 10.0]


def test_the_average_is_over_the_records_before_this_loss() -> None:
    # records 1 and 3: average 2; 11 is beyond 5 times it, and would not be if it counted itself (average 5)
    used, _ = run(adaptive(), [1.0, 3.0, 11.0])
    assert used[-1] == pytest.approx(12.0)
    # a window of 2 has forgotten the first: average 3
    used, _ = run(adaptive(window=2), [100.0, 3.0, 3.0, 15.5])
    assert used[-1] == pytest.approx(used[-2] * 1.2)


def test_two_records_are_needed_before_anything_changes() -> None:
    used, _ = run(adaptive(), [1.0, 100.0])
    assert used == [10.0, 10.0]


def test_nothing_happens_between_two_intervals_and_at_step_zero() -> None:
    weight = adaptive()
    _, recorded = run(weight, [1.0, 1.0, 1.0])
    for step in (0, 31, 39, 41):
        for fit in (1000.0, 0.001):
            used, state = weight(torch.tensor(fit), recorded | {"step": torch.tensor(step)})
            assert used.item() == INITIAL
            torch.testing.assert_close(state, recorded)
    assert weight(torch.tensor(1000.0), recorded | {"step": torch.tensor(40)})[0].item() == pytest.approx(12.0)


def test_warm_up_records_losses_and_leaves_the_weight() -> None:
    used, state = run(adaptive(total_steps=100, warmup_fraction=0.5), [1.0, 1.0, 100.0, 1.0, 1000.0])
    # steps 10 to 40 are warm-up; step 50 is compared with the mean of 1, 1, 100, 1
    assert used == [10.0, 10.0, 10.0, 10.0, pytest.approx(12.0)]
    assert state["bc_history"].tolist() == [1.0, 100.0, 1.0, 1000.0]


def test_weight_stays_within_its_limits() -> None:
    up, _ = run(adaptive(window=2, highest=1.5), [10.0**k for k in range(8)])
    assert max(up) == pytest.approx(15.0) and up[-1] == pytest.approx(15.0)
    down, _ = run(adaptive(window=2, lowest=0.5), [10.0**-k for k in range(12)])
    assert min(down) == pytest.approx(5.0) and down[-1] == pytest.approx(5.0)


def test_factors_and_threshold_are_those_of_the_configuration() -> None:
    used, _ = run(adaptive(threshold=2.0, increase=3.0, decrease=0.5), [1.0, 1.0, 2.5, 0.1])
    assert used == [10.0, 10.0, pytest.approx(30.0), pytest.approx(15.0)]


def test_the_state_given_is_not_changed() -> None:
    weight = adaptive()
    state = weight.initial_state()
    before = {name: value.clone() for name, value in state.items()}
    weight(torch.tensor(3.0), state | {"step": torch.tensor(10)})
    torch.testing.assert_close(state, before)
