"""What is wrong with a user's own file or Minari folder, and what is worth knowing: for `genpolicy.data.check_file`."""

from pathlib import Path

import numpy as np

from genpolicy.data import minari
from genpolicy.data._validation import length_problem, list_rows
from genpolicy.data.dataset import ACTION_EPSILON
from genpolicy.errors import DataError

FLAGS = ("terminals", "timeouts", "masks")
_BASIC = ("observations", "actions", "rewards", "terminals")
_SHOWN_EPISODES = 5


def examine(arrays: dict[str, np.ndarray], layout: str) -> tuple[list[str], list[str]]:
    """Problems and notes of a file's arrays."""
    problems, notes = [], []
    optional = ("rewards",) if layout == "states" else ("terminals",) if "timeouts" in arrays else ()
    missing = [key for key in _BASIC if key not in arrays and key not in optional]
    if missing:
        problems.append(f"there is no {' and no '.join(missing)}; there are {', '.join(arrays) or 'no arrays we know'}")
    if layout == "states" and "rewards" not in arrays:
        notes.append("there are no rewards: they are taken as 0, which is enough for behavioural cloning only")
    if layout == "states" and "masks" not in arrays:
        notes.append("there are no masks: no state counts as done, every value is bootstrapped")
    sound = {}
    for key, array in arrays.items():
        wrong = _shape_problem(key, array)
        problems += wrong
        if not wrong:
            sound[key] = array
            problems += _value_problems(key, array)
            notes += _dtype_notes(key, array)
    lengths = length_problem({key: len(array) for key, array in sound.items()})
    problems += lengths
    if not lengths and sound:
        more = _step_problems(sound) if layout == "steps" else _state_problems(sound)
        problems, notes = problems + more[0], notes + more[1]
    return problems, notes


def _shape_problem(key: str, array: np.ndarray) -> list[str]:
    if array.dtype.kind not in "fiub":
        return [f"{key} has dtype {array.dtype}; it must hold real numbers"]
    if key in ("observations", "next_observations"):
        good, expected = array.ndim >= 2, "(N, *O)"
    elif key == "actions":
        good, expected = array.ndim == 2, "(N, A)"
    else:
        good, expected = array.ndim == 1, "(N,)"
    hint = "; reshape it to (N, 1)" if array.ndim == 1 else ""
    return [] if good else [f"{key} has shape {array.shape}; it must be {expected}{hint}"]


def _value_problems(key: str, array: np.ndarray) -> list[str]:
    problems = []
    rows = array.reshape(len(array), -1)
    if key in FLAGS:
        wrong = np.flatnonzero((array != 0) & (array != 1))
        return [f"{key} must be 0 or 1, but is not in {list_rows(wrong)}"] if len(wrong) else []
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(rows.astype(np.float32, copy=False)).all(axis=1)
    if bad.any():
        problems.append(f"{key} has NaN or infinite values (as float32) in {list_rows(np.flatnonzero(bad))}")
    if key == "actions":
        sizes = np.where(np.isfinite(rows), np.abs(rows), 0).max(axis=1, initial=0)
        outside = np.flatnonzero(sizes > 1 + ACTION_EPSILON)
        if len(outside):
            problems.append(
                f"actions leave [-1, 1] (up to {sizes.max():g}) in {list_rows(outside)}; rescale them by the bounds "
                "of the environment's action space"
            )
    return problems


def _dtype_notes(key: str, array: np.ndarray) -> list[str]:
    if key in FLAGS or array.dtype in (np.float32, np.float16):
        return []
    if array.dtype == np.uint8 and array.ndim == 4:
        return []  # images stay as they are
    exact = array.dtype.kind == "b" or (array.dtype.kind in "iu" and np.abs(array.astype(np.float64)).max() <= 2**24)
    loss = "exactly" if exact else "rounded to about 7 digits"
    return [f"{key} is {array.dtype}; it is converted to float32, {loss}"]


def _step_problems(arrays: dict[str, np.ndarray]) -> tuple[list[str], list[str]]:
    """Ends of episodes in D4RL's layout."""
    problems, notes = [], []
    terminals, timeouts = step_flags(arrays)
    ends = terminals | timeouts
    if not ends.any():
        return ["there is no episode end: terminals or timeouts must be true at the last step of each episode"], []
    if not ends[-1]:
        notes.append(f"the last row ({len(ends) - 1}) ends no episode: it is taken as cut off there")
    ends[-1] = True
    if "next_observations" not in arrays and (terminals & timeouts).any():
        rows = np.flatnonzero(terminals & timeouts)
        notes.append(f"terminals and timeouts are both true in {list_rows(rows)}: these steps are not used")
    single = ends & np.concatenate([[True], ends[:-1]])
    following = arrays.get("next_observations")
    if following is None:
        empty = np.flatnonzero(single & (timeouts | (~terminals & ends)))
        if len(empty):
            problems.append(
                f"episodes of one step that was cut off hold no transition: remove {list_rows(empty)}, or store "
                "next_observations"
            )
        notes.append(
            f"there are no next_observations: {int((ends & (timeouts | ~terminals)).sum())} steps at which an episode "
            "was cut off only serve as the state after the step before"
        )
    elif "observations" in arrays and following.shape == arrays["observations"].shape:
        states = arrays["observations"]
        jump = (following[:-1] != states[1:]).reshape(len(states) - 1, -1).any(axis=1) & ~ends[:-1]
        if jump.any():
            problems.append(
                "next_observations are not the observations of the row after within an episode in "
                f"{list_rows(np.flatnonzero(jump))}; set timeouts where episodes are cut off"
            )
    elif "observations" in arrays:
        problems.append(
            f"next_observations have shape {following.shape}, observations {arrays['observations'].shape}; they must "
            "be equal"
        )
    rows = np.flatnonzero(single & (terminals & ~timeouts if following is None else True))
    if len(rows):
        notes.append(f"there are episodes of one step: {list_rows(rows)}")
    return problems, notes


def _state_problems(arrays: dict[str, np.ndarray]) -> tuple[list[str], list[str]]:
    """Ends of episodes in OGBench's layout."""
    if "terminals" not in arrays:
        return [], []
    ends = arrays["terminals"] != 0
    if not ends.any():
        return ["there is no episode end: terminals must be true at the last row of each episode"], []
    problems = []
    if not ends[-1]:
        problems.append(
            f"the last row ({len(ends) - 1}) does not end an episode: terminals must be true at the last row of each"
        )
    single = np.flatnonzero(ends & np.concatenate([[True], ends[:-1]]))
    if len(single):
        problems.append(f"episodes of one row hold no transition: remove {list_rows(single)}")
    return problems, []


def step_flags(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Terminals and timeouts, all false where the file has none."""
    rows = len(next(iter(arrays.values())))
    none = np.zeros(rows, bool)
    return arrays.get("terminals", none) != 0, arrays.get("timeouts", none) != 0


def examine_minari(folder: Path) -> tuple[list[str], list[str]]:
    """Problems and notes of a Minari dataset, by episode and step."""
    problems: list[str] = []
    notes: list[str] = []
    counts: dict[str, int] = {}

    def add(to: list[str], kind: str, episode: int, detail: str) -> None:
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] <= _SHOWN_EPISODES:
            to.append(f"episode {episode}: {detail}")

    with minari.opened(folder) as dataset:
        try:
            boxes = minari.parts(dataset.observation_space, str(folder))
            low, high = minari.action_bounds(dataset.action_space, str(folder))
        except DataError as error:
            return [str(error)], []
        if dataset.env_spec is None:
            notes.append("it names no environment: there is no evaluation, unless data.environment names one")
        if np.any(low != -1) or np.any(high != 1):
            notes.append("actions are scaled from their bounds to [-1, 1]")
        notes += [
            f"{'/'.join(('observations', *keys))} is {box.dtype}; it is converted to float32"
            for keys, box in boxes
            if box.dtype != np.float32
        ]
        short = []
        for episode in minari.episodes(dataset):
            steps = len(episode.rewards)
            columns = {"/".join(("observations", *keys)): minari.pick(episode.observations, keys) for keys, _ in boxes}
            lengths = {len(array) for array in columns.values()}
            if lengths == {steps}:
                add(notes, "short", episode.id, f"one observation too few for {steps} steps; it is left out")
            elif lengths != {steps + 1}:
                add(problems, "length", episode.id, f"{sorted(lengths)} observations for {steps} steps")
            columns |= {"actions": np.asarray(episode.actions), "rewards": np.asarray(episode.rewards)}
            for key, array in columns.items():
                bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
                if len(bad):
                    add(problems, key, episode.id, f"{key} has NaN or infinite values in {list_rows(bad)}")
            actions = columns["actions"]
            outside = ((actions < low - ACTION_EPSILON) | (actions > high + ACTION_EPSILON)).any(axis=-1)
            if outside.any():
                add(
                    problems,
                    "bounds",
                    episode.id,
                    f"actions leave the action space in {list_rows(np.flatnonzero(outside))}",
                )
            ended = np.flatnonzero(np.asarray(episode.terminations)[:-1])
            if len(ended):
                add(notes, "ends", episode.id, f"a termination before the last step, in {list_rows(ended)}")
            if steps == 1:
                short.append(episode.id)
    for kind, count in counts.items():
        if count > _SHOWN_EPISODES:
            to = notes if kind in ("short", "ends") else problems
            to.append(f"the same ({kind}) in {count - _SHOWN_EPISODES} more episodes")
    if short:
        notes.append(f"there are episodes of one step: {list_rows(np.array(short)).replace('row', 'number')}")
    return problems, notes
