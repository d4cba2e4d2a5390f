"""What the public API is, and which of it the API pages show, both read from the source text.

Public is every name without an underscore of every module that is not listed in `INTERNAL`, and every name that such a
module exports in its ``__all__``, wherever it is defined. A new module has to stand on a page below ``docs/api`` or in
the list.
"""

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import griffe
import yaml

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "api"

INTERNAL = {
    "cli": "the commands; docs/cli.md has their help",
    "cli.data": "the commands; docs/cli.md has their help",
    "bench.cli": "the commands; docs/cli.md has their help",
    "lazy": "how packages import their names on first use",
    "parts": "imports the built-in parts",
    "progress": "bars on the terminal",
    "recording": "updates that are recorded as CUDA graphs, behind Agent.accelerate",
    "data.convert": "tables of one format as another, behind convert_dataset",
    "data.files": "files of a user's own, behind check_file and load_file",
    "data.generation.*": "simulators and workers behind generate",
    "data.minari": "Minari's files, behind load_dataset",
    "data.minari_metadata": "how a Minari folder describes itself",
    "data.npz": "the bytes of an npz file",
    "data.ogbench": "OGBench's files, behind load_dataset",
    "data.store": "datasets on disk that are larger than memory",
    "data.success_timing": "OGBench's two ways to judge a step",
    "envs.rendering": "which renderer of MuJoCo works here",
    "envs.processes": "how processes of this library start",
    "envs.simulators": "simulator processes behind Evaluator",
    "testing.*": "the kit's own checks and stand-ins, behind check_head and its like",
    "training.compilation": "how an update is compiled",
    "training.finite": "the search for values that are not finite",
    "training.group_training": "runs that are computed together, behind train_seeds",
    "training.provenance": "what a run directory says about its machine",
    "training.signals": "interrupts",
    "training.snapshot": "what a checkpoint holds",
    "training.storage": "files that are whole or absent",
    "bench.code_version": "the digest of the code that made a result",
    "bench.cores": "how many cores there are",
    "bench.datasets": "where the data of a suite come from",
    "bench.demo": "the command genpolicy demo",
    "bench.estimates": "what a plan will cost",
    "bench.executors.*": "engines behind make_executor",
    "bench.expansion": "a suite's jobs",
    "bench.figures": "figures of the demo",
    "bench.jobs": "one job of a suite",
    "bench.latency": "how long acting takes",
    "bench.locks": "one process at a time",
    "bench.plan_view": "plans on the terminal",
    "bench.report": "the page of the demo",
    "bench.status": "progress on the terminal",
    "bench.suite_checks": "refusals of suites",
    "bench.suite_edits": "a suite restricted on the command line",
    "bench.suite_reading": "YAML to suites",
    "bench.suite_report.*": "tables, figures and page behind write_report",
    "bench.toy*": "the command genpolicy toy",
    "bench.training_jobs": "jobs that train",
    "bench.workspace": "the files of a results folder",
}
NOT_AN_INTERFACE = ("logging.getLogger", "TypeVar")
"""A name whose value is made by one of these is no part of an interface."""


@cache
def package() -> griffe.Module:
    """The library, parsed and not imported."""
    loaded = griffe.load("genpolicy", search_paths=[ROOT], try_relative_path=False)
    assert isinstance(loaded, griffe.Module)
    return loaded


def is_internal(module: str) -> bool:
    """Whether a module is listed as internal."""
    return any(fnmatch(module.removeprefix("genpolicy."), pattern) for pattern in INTERNAL)


def modules(parent: griffe.Module) -> Iterator[griffe.Module]:
    """A package and everything below it."""
    yield parent
    for child in parent.modules.values():
        if not child.is_alias and not child.name.startswith("_"):
            yield from modules(child)


def public_members(parent: griffe.Module | griffe.Class) -> Iterator[griffe.Object]:
    """What is defined in a module or class under a name without underscore: classes, functions, constants."""
    for member in parent.members.values():
        if member.is_alias or member.is_module or member.name.startswith("_"):
            continue
        if str(getattr(member, "value", "")).startswith(NOT_AN_INTERFACE):
            continue
        assert isinstance(member, griffe.Object)
        yield member


def with_methods(member: griffe.Object) -> Iterator[griffe.Object]:
    """A member, and of a class its own methods and properties."""
    yield member
    if isinstance(member, griffe.Class):
        for inner in public_members(member):
            if inner.is_function or "property" in inner.labels:
                yield inner


def public() -> dict[str, griffe.Object]:
    """The public API by path; see the head of this file."""
    found = {}
    for module in modules(package()):
        if is_internal(module.path):
            continue
        exported = [module[str(name)] for name in module.exports or ()]
        for member in (*public_members(module), *(one.final_target if one.is_alias else one for one in exported)):
            found |= {one.path: one for one in with_methods(member) if not one.is_module}
    return found


def undocumented() -> list[str]:
    """Public names without a docstring."""
    return sorted(path for path, member in public().items() if member.docstring is None)


def shown() -> set[str]:
    """Everything that the API pages show: what their ``:::`` blocks name, with its members unless they are chosen."""
    found: set[str] = set()
    for page in PAGES.glob("*.md"):
        for path, settings in re.findall(r"^::: (\S+)\n((?:(?: {4}.*)?\n)*)", page.read_text() + "\n", re.MULTILINE):
            options = (yaml.safe_load(settings) or {}).get("options", {})
            target = package()[path.removeprefix("genpolicy.")]
            found |= set(_shown(target.final_target if target.is_alias else target, options.get("members", True)))
    return found


def _shown(target: griffe.Object, members: bool | list[str]) -> Iterator[str]:
    yield target.path
    if isinstance(target, griffe.Module | griffe.Class) and members:
        for member in public_members(target):
            if members is True or member.name in members:
                yield from (one.path for one in with_methods(member))


def missing() -> list[str]:
    """Public names that no API page shows."""
    return sorted(set(public()) - shown())
