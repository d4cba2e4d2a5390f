"""Changes of a suite before it is read: its quick section, and what the command line says."""

from collections.abc import Mapping, Sequence
from typing import Any

from genpolicy.config import parse_overrides
from genpolicy.errors import ConfigError, suggest
from genpolicy.recipes import Tree


def with_quick(tree: Tree, where: str) -> Tree:
    """Lay the section ``quick`` over a suite: its keys replace the suite's, its ``base`` is appended.

    Of a toy study, keys below a section replace those of the section, as `genpolicy.bench.toy` has it.

    Raises:
        ConfigError: if there is no such section.
    """
    overlay = tree.get("quick")
    if not isinstance(overlay, Mapping):
        raise ConfigError(f"{where} has no section 'quick', so there is no miniature of it.")
    tree = {key: value for key, value in tree.items() if key != "quick"}
    for key, value in overlay.items():
        if key == "base":
            tree[key] = [*_as_list(tree.get(key)), *_as_list(value)]
        elif tree.get("kind") == "toy" and isinstance(value, Mapping):
            tree[key] = {**(tree.get(key) or {}), **value}
        else:
            tree[key] = value
    return tree


def edit(tree: Tree, overrides: Sequence[str], where: str) -> Tree:
    """Apply what stands on the command line; of a suite of suites to each part.

    ``tasks=[a,b]``, ``seeds=4`` and ``factors.NAME=[level,level]`` restrict the suite, other overrides go to its base.

    Raises:
        ConfigError: for text that is not an override, and an unknown factor or level.
    """
    edits: dict[str, Any] = {}
    base = []
    for text, (key, value) in zip(overrides, parse_overrides(overrides), strict=True):
        if key in ("tasks", "seeds") or key.startswith("factors."):
            edits[key] = value
        else:
            base.append(text)
    if not edits and not base:
        return tree
    if "parts" not in tree:
        tree = _edit_one(tree, edits, base, where)
        unknown = [key for key in edits if key.startswith("factors.") and not _has_factor(tree, key)]
    else:
        parts = {part: _edit_one(own, edits, base, f"{where} ({part})") for part, own in tree["parts"].items()}
        tree = {**tree, "parts": parts}
        wanted = [key for key in edits if key.startswith("factors.")]
        unknown = [key for key in wanted if not any(_has_factor(own, key) for own in parts.values())]
    if unknown:
        factors = [f"factors.{name}" for own in tree.get("parts", {"": tree}).values() for name in _factors_of(own)]
        raise ConfigError(f"{where} has no {unknown[0]}.{suggest(unknown[0], factors)} It has: {', '.join(factors)}.")
    return tree


def _edit_one(tree: Tree, edits: Mapping[str, Any], base: Sequence[str], where: str) -> Tree:
    tree = dict(tree)
    if base:
        tree["base"] = [*_as_list(tree.get("base")), *base]
    for key, value in edits.items():
        if key == "seeds":
            tree["seeds"] = value
        elif key == "tasks":
            names = [value] if isinstance(value, str) else value
            known = tree.get("tasks")
            own = known if isinstance(known, Mapping) else {}
            tree["tasks"] = {name: own.get(name) for name in names}
            if tree.get("exclude"):
                tree["exclude"] = [cell for cell in tree["exclude"] if cell.get("task", names[0]) in names]
        elif _has_factor(tree, key):
            tree = _restrict(tree, key.removeprefix("factors."), value, where)
    return tree


def _restrict(tree: Tree, factor: str, value: Any, where: str) -> Tree:
    """The suite with some levels of a factor; what named the others goes with them."""
    from genpolicy.bench.suite_reading import label

    wanted = [label(level) for level in (value if isinstance(value, list) else [value])]
    if tree.get("kind") == "toy":
        return {**tree, "factors": {factor: {level: [] for level in wanted}}}
    levels = {label(level): texts for level, texts in tree["factors"][factor].items()}
    for level in wanted:
        if level not in levels:
            known = ", ".join(levels)
            raise ConfigError(
                f"{where}: factor '{factor}' has no level '{level}'.{suggest(level, levels)} It has: {known}."
            )
    tree = {**tree, "factors": {**tree["factors"], factor: {level: levels[level] for level in wanted}}}

    def kept(cell: Any) -> bool:
        return factor not in cell or label(cell[factor]) in wanted

    for key in ("combinations", "exclude"):
        if tree.get(key):
            tree[key] = [cell for cell in tree[key] if kept(cell)]
            tree.setdefault("grid", key != "combinations")
    if not kept(tree.get("baseline") or {}):
        tree["baseline"] = {}
    return tree


def _has_factor(tree: Tree, key: str) -> bool:
    return key.removeprefix("factors.") in _factors_of(tree)


def _factors_of(tree: Tree) -> list[str]:
    return ["variant"] if tree.get("kind") == "toy" else [str(name) for name in tree.get("factors") or {}]


def _as_list(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else list(value or [])
