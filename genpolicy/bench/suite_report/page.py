"""The page: one HTML file that needs nothing else."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from genpolicy.bench.suite import Suite
from genpolicy.bench.suite_report.conclusions import conclude, warn
from genpolicy.bench.suite_report.data_facts import data_facts
from genpolicy.bench.suite_report.drawing import Drawing, inline
from genpolicy.bench.suite_report.facts import budget, machines, protocol, versions
from genpolicy.bench.suite_report.loading import Study
from genpolicy.bench.suite_report.records import Analysis
from genpolicy.bench.suite_report.results import describe_seeds
from genpolicy.bench.suite_report.runs import command_of
from genpolicy.bench.suite_report.tables import Table
from genpolicy.errors import ConfigError

SHOWN_JOBS = 200
"""Missing or failed jobs that are named on the page; all of them stand in runs.csv."""


def render_page(analysis: Analysis, tables: Sequence[Table], drawings: Sequence[Drawing], *, notes: str = "") -> str:
    """The page of a study.

    Args:
        analysis: the numbers.
        tables: in the order in which they are shown.
        drawings: beside them; those with a task and an id that starts with "scores" stand together.
        notes: paragraphs of the people who ran it, below the automatic conclusions.

    Raises:
        ConfigError: if Jinja is not installed.
    """
    study = analysis.study
    return _template("study.html.j2").render(
        study=study,
        analysis=analysis,
        tables=tables,
        pictures=[_shown(one) for one in drawings if not one.picture.id.startswith("scores")],
        task_pictures=[_shown(one) for one in drawings if one.picture.id.startswith("scores")],
        conclusions=conclude(analysis),
        warnings=warn(analysis),
        notes=[text for text in notes.split("\n\n") if text.strip()],
        seeds=describe_seeds(analysis),
        filters=_filters(analysis),
        data=data_facts(study),
        budget=budget(study),
        protocol=protocol(study),
        versions=versions(study.runs),
        machines=machines(study.runs),
        command=study.command,
        commands=_commands(analysis),
        finished=_period(study),
        states=_states(study),
        failed=study.failed[:SHOWN_JOBS],
        missing=study.missing[:SHOWN_JOBS],
        **_assets(),
    )


def render_overview(suite: Suite, analyses: Mapping[str, Analysis]) -> str:
    """A page that leads to the pages of the suites that a suite includes."""
    rows = [
        {
            "name": part,
            "title": analysis.study.suite.title,
            "configurations": len(analysis.configurations),
            "tasks": len(analysis.tasks),
            "seeds": describe_seeds(analysis).removeprefix("Seeds per row: ").removesuffix("."),
            "states": _states(analysis.study),
            "conclusion": " ".join(conclude(analysis)[:2]),
        }
        for part, analysis in analyses.items()
    ]
    return _template("overview.html.j2").render(suite=suite, rows=rows, **_assets())


def _template(name: str) -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise ConfigError(
            "The page of a report is written with Jinja. Install it: pip install 'genpolicy[bench]'."
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("genpolicy.bench.suite_report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["code_spans"] = _code_spans
    return environment.get_template(name)


def _code_spans(text: str) -> Any:
    """Escaped text in which what stands between backticks is code."""
    import markupsafe

    return markupsafe.Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(markupsafe.escape(text))))


def _assets() -> dict[str, str]:
    folder = files("genpolicy.bench.suite_report") / "templates"
    return {name: (folder / f"page.{name}").read_text(encoding="utf-8") for name in ("css", "js")}


def _shown(drawing: Drawing) -> dict[str, Any]:
    picture = drawing.picture
    return {name: getattr(picture, name) for name in ("id", "title", "caption", "task")} | {"svg": inline(drawing)}


def _filters(analysis: Analysis) -> dict[str, list[str]]:
    """Levels of each factor with more than one, and the tasks."""
    found: dict[str, dict[str, None]] = {}
    for one in analysis.configurations:
        for factor, level in one.levels:
            found.setdefault(factor, {})[level] = None
    filters = {factor: list(levels) for factor, levels in found.items() if len(levels) > 1}
    return filters | ({"task": list(analysis.tasks)} if len(analysis.tasks) > 1 else {})


def _commands(analysis: Analysis) -> list[tuple[str, str]]:
    """For each configuration the command of its first run; others differ in task and seed."""
    if analysis.study.suite.kind != "train":
        return []
    found: dict[str, str] = {}
    for (_, one), group in analysis.groups.items():
        if group.runs and one.label not in found:
            found[one.label] = command_of(group.runs[0])
    return [(label, command) for label, command in found.items() if command]


def _period(study: Study) -> str:
    days = sorted(str(run["finished"])[:10] for run in study.runs if run.get("finished"))
    if not days:
        return ""
    return days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"


def _states(study: Study) -> str:
    counts = Counter(run["state"] for run in study.runs)
    counts["failed"] += len(study.failed)
    counts["missing"] += len(study.missing)
    shown = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count)
    return f"{len(study.planned):,} jobs: {shown}" if shown else "no jobs"
