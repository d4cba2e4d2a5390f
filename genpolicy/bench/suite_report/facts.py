"""Budget, protocol, versions and machines of a study's runs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from genpolicy.bench.suite_report.loading import Run, Study

Fact = tuple[str, str]
"""What it is, and its value."""


def budget(study: Study) -> list[Fact]:
    """What every run was given; where runs differ, all values."""
    facts: list[tuple[str, Callable[[Run], Any]]] = [
        ("Updates of the networks", lambda run: run.get("updates")),
        (
            "Updates on the dataset before acting online",
            lambda run: _at(run, "trainer.steps") if _online(run) else None,
        ),
        ("Steps in the environment while learning", lambda run: _online(run) or None),
        ("Batch size", lambda run: _at(run, "trainer.batch_size")),
        ("Hidden layers of the policy's network", lambda run: _network(run, "head.backbone")),
        ("Hidden layers of the critic's networks", lambda run: _network(run, "critic")),
        ("Test episodes per evaluation", lambda run: run.get("episodes") or None),
        ("Evaluations during training", lambda run: len(run.get("evaluations") or ()) or None),
        ("Settings start from", lambda run: _recipe(run)),
    ]
    found = []
    for name, read in facts:
        values = [value for run in study.runs if (value := read(run)) is not None]
        if values:
            found.append((name, spread(values)))
    return found


def protocol(study: Study) -> str:
    """How a run becomes a number, in a sentence."""
    if study.suite.kind == "toy":
        return "The score of a run is measured on samples of the policy after its last update."
    declared = study.suite.protocol
    how = {
        "last": "The score of a run is its last evaluation in the simulator, after the last update.",
        "mean_of_last": f"The score of a run is the mean of its last {declared.count} evaluations.",
        "published": "The score of a run is the mean of as many last evaluations as the published protocol of the task "
        "averages.",
    }
    return how[declared.evaluations] + " It is not the best evaluation: nothing is picked in hindsight."


def versions(runs: Iterable[Run]) -> list[tuple[str, int]]:
    """Version of the code and of the packages, with the number of runs."""
    return _count(_version_text(run) for run in runs)


def machines(runs: Iterable[Run]) -> list[tuple[str, int]]:
    """The machines, with the number of runs."""
    return _count(_machine_text(run.get("machine") or {}) for run in runs)


def spread(values: Sequence[Any]) -> str:
    """One value, a few, or from the least to the greatest."""
    different = sorted(set(values)) if all(isinstance(value, int | float) for value in values) else None
    if different is None:
        different = sorted(set(map(str, values)))
    if len(different) > 4 and not isinstance(different[0], str):
        return f"{different[0]:,} to {different[-1]:,}, by configuration"
    shown = ", ".join(value if isinstance(value, str) else f"{value:,}" for value in different[:8])
    more = f" and {len(different) - 8} more" if len(different) > 8 else ""
    return f"{shown}{more}{' (by configuration or task)' if len(different) > 1 else ''}"


def _at(run: Run, key: str) -> Any:
    place: Any = run.get("config") or {}
    for name in key.split("."):
        place = place.get(name) if isinstance(place, Mapping) else None
    return place


def _online(run: Run) -> int:
    return _at(run, "trainer.online_steps") or 0


def _network(run: Run, key: str) -> str | None:
    layers = _at(run, f"{key}.hidden_dims")
    if layers:
        return " x ".join(map(str, layers))
    width, depth = _at(run, f"{key}.width"), _at(run, f"{key}.depth")
    return f"{depth} blocks of width {width}" if width and depth else None


def _recipe(run: Run) -> str | None:
    name, preset = _at(run, "algorithm"), _at(run, "preset")
    return None if name is None else f"recipe {name}" + (f", preset {preset}" if preset else "")


def _version_text(run: Run) -> str:
    code = run.get("code") or {}
    text = f"genpolicy {code.get('version', 'unknown')}"
    text += f", source {code['digest']}" if code.get("digest") else ""
    git = code.get("git") or {}
    if git.get("commit"):
        text += f", commit {git['commit'][:12]}{' with uncommitted changes' if git.get('dirty') else ''}"
    packages = ((run.get("machine") or {}).get("versions") or {}).items()
    text += "".join(f", {name} {value}" for name, value in packages if value and name != "genpolicy")
    return text


def _machine_text(machine: Mapping[str, Any]) -> str:
    hardware = machine.get("hardware") or {}
    if not hardware:
        return "not recorded"
    text = f"{hardware.get('cpu') or 'unknown processor'}, {hardware.get('cores', '?')} cores"
    if hardware.get("memory_bytes"):
        text += f", {hardware['memory_bytes'] / 2**30:.0f} GiB"
    gpus = hardware.get("gpus") or []
    text += f", {', '.join(gpus)}" if gpus else ", no GPU"
    if machine.get("device", "cpu") != "cpu":
        text += f", networks on {machine['device']}"
    return f"{text}; {machine['platform']}" if machine.get("platform") else text


def _count(texts: Iterable[str]) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    for text in texts:
        counts[text] = counts.get(text, 0) + 1
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
