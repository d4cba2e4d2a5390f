"""Reading a suite's YAML: plain values in, a checked `Suite` out."""

from collections.abc import Mapping
from typing import Any, get_args

from genpolicy.bench.suite import Evaluations, Kind, Levels, Protocol, Suite, SuiteTask
from genpolicy.data.tasks import list_tasks
from genpolicy.errors import ConfigError, suggest
from genpolicy.recipes import Tree

KEYS = (
    *("title", "question", "kind", "tasks", "seeds", "base", "factors", "combinations", "grid", "exclude", "metric"),
    *("protocol", "baseline", "references", "quick", "include"),
)
STUDY_KEYS = ("common", "variants", "compile", "cloning", "q_gradient")
"""Keys of a suite of the kind toy beside those: the declaration of the toy study."""


def read_suite(name: str, tree: Tree, where: str) -> Suite:
    """Turn plain values into a checked suite.

    Args:
        name: what it is called.
        tree: as in YAML; a suite of suites has the declarations of its ``parts``.
        where: the file, for messages.

    Raises:
        ConfigError: naming file, factor and level.
    """
    from genpolicy.bench.suite_checks import check_suite

    if "parts" in tree:
        parts = tuple(read_suite(part, own, f"{where} ({part})") for part, own in tree["parts"].items())
        return Suite(
            name, _text(tree, "title", where), _text(tree, "question", where), included=parts, declaration=tree
        )
    kind = tree.get("kind", "train")
    if kind not in get_args(Kind):
        raise ConfigError(f"{where}: kind is {kind!r}; allowed: {', '.join(get_args(Kind))}.")
    allowed = (*KEYS, *(STUDY_KEYS if kind == "toy" else ()))
    for key in tree:
        if key not in allowed:
            raise ConfigError(f"{where}: unknown key '{key}'.{suggest(str(key), allowed)} Known: {', '.join(allowed)}.")
    suite = Suite(
        name=name,
        title=_text(tree, "title", where),
        question=_text(tree, "question", where),
        kind=kind,
        tasks=_tasks(tree.get("tasks"), where),
        seeds=_seeds(tree.get("seeds", 1), where),
        base=as_overrides(tree.get("base"), f"{where}: base"),
        factors=_factors(tree.get("factors"), where),
        combinations=_cells(tree.get("combinations"), f"{where}: combinations"),
        grid=bool(tree.get("grid", not tree.get("combinations"))),
        exclude=_cells(tree.get("exclude"), f"{where}: exclude"),
        metric=str(tree.get("metric", "task")),
        protocol=_protocol(tree.get("protocol"), where),
        baseline=_cell(tree.get("baseline") or {}, f"{where}: baseline"),
        references=list_of_names(tree.get("references"), f"{where}: references"),
        study={key: tree[key] for key in STUDY_KEYS if key in tree},
        declaration=tree,
    )
    if kind == "toy":
        from genpolicy.bench.toy_jobs import with_problems

        suite = with_problems(suite, where)
    return check_suite(suite, where)


def as_overrides(value: Any, where: str) -> tuple[str, ...]:
    """One override or a list of them.

    Raises:
        ConfigError: for anything else.
    """
    texts = [value] if isinstance(value, str) else (value or [])
    if not isinstance(texts, list) or not all(isinstance(text, str) and "=" in text for text in texts):
        raise ConfigError(f"{where} is {value!r}; give overrides as in [head.time_steps=50, critic.q_agg=mean].")
    return tuple(texts)


def label(value: Any) -> str:
    """A level's name as text: YAML reads 1, 0.5 and true as what they look like."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _text(tree: Tree, key: str, where: str) -> str:
    value = tree.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where}: {key} is {value!r}; a suite needs a {key}, for readers of its report.")
    return " ".join(value.split())


def _tasks(value: Any, where: str) -> tuple[SuiteTask, ...]:
    if value == "paper":
        value = [task.name for task in list_tasks() if task.in_paper]
    if isinstance(value, Mapping):
        tasks = []
        for name, own in value.items():
            own = own or {}
            if not isinstance(own, Mapping) or set(own) - {"overrides", "generate"}:
                raise ConfigError(f"{where}: task {name} has {own!r}; allowed are overrides and generate.")
            episodes = own.get("generate")
            if episodes is not None and (not isinstance(episodes, int) or episodes < 1):
                raise ConfigError(f"{where}: task {name}: generate is {episodes!r}; give a number of episodes.")
            tasks.append(SuiteTask(str(name), as_overrides(own.get("overrides"), f"{where}: task {name}"), episodes))
        return tuple(tasks)
    return tuple(SuiteTask(name) for name in list_of_names(value, f"{where}: tasks"))


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    seeds: Any = list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value
    numbers = isinstance(seeds, list) and all(isinstance(seed, int) and seed >= 0 for seed in seeds)
    if not numbers or not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"{where}: seeds is {value!r}; give a number of at least 1, or a list as in [0, 1, 2].")
    return tuple(seeds)


def _factors(value: Any, where: str) -> dict[str, dict[str, tuple[str, ...]]]:
    if not isinstance(value or {}, Mapping):
        raise ConfigError(f"{where}: factors is {value!r}; give factor: {{level: [override, ...]}}.")
    factors = {}
    for factor, levels in (value or {}).items():
        if not isinstance(levels, Mapping) or not levels:
            raise ConfigError(f"{where}: factor '{factor}' has no levels; give level: [override, ...].")
        factors[str(factor)] = {
            label(level): as_overrides(texts, f"{where}: factor '{factor}', level '{level}'")
            for level, texts in levels.items()
        }
    return factors


def _cells(value: Any, where: str) -> tuple[Levels, ...]:
    if not isinstance(value or [], list):
        raise ConfigError(f"{where} is {value!r}; give a list of {{factor: level}}.")
    return tuple(_cell(one, where) for one in value or [])


def _cell(value: Any, where: str) -> Levels:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: {value!r} is not of the form {{factor: level}}.")
    return {str(factor): label(level) for factor, level in value.items()}


def _protocol(value: Any, where: str) -> Protocol:
    given = value or {}
    if not isinstance(given, Mapping) or set(given) - {"evaluations", "count"}:
        raise ConfigError(f"{where}: protocol is {value!r}; give {{evaluations: last}}, or mean_of_last with a count.")
    evaluations, count = given.get("evaluations", "last"), given.get("count", 1)
    if evaluations not in get_args(Evaluations):
        allowed = ", ".join(get_args(Evaluations))
        raise ConfigError(f"{where}: protocol.evaluations is {evaluations!r}; allowed: {allowed}.")
    if not isinstance(count, int) or count < 1 or (evaluations != "mean_of_last" and "count" in given and count != 1):
        raise ConfigError(
            f"{where}: protocol.count is {count!r}; it is the number of evaluations that mean_of_last averages."
        )
    return Protocol(evaluations, count)


def list_of_names(value: Any, where: str) -> tuple[str, ...]:
    """A list of different names, or nothing.

    Raises:
        ConfigError: for anything else.
    """
    if not isinstance(value or [], list) or not all(isinstance(name, str) for name in value or []):
        raise ConfigError(f"{where} is {value!r}; give a list of names.")
    if len(set(value or [])) < len(value or []):
        raise ConfigError(f"{where} names one twice: {', '.join(value)}.")
    return tuple(value or [])
