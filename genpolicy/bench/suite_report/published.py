"""Published scores, beside those of a study."""

from collections.abc import Mapping
from typing import Any

from genpolicy.bench.suite_report.loading import Study
from genpolicy.bench.suite_report.records import Analysis, Group
from genpolicy.bench.suite_report.tables import NOTHING, Cell, Column, Row, Table, number
from genpolicy.data.published import PublishedScore, published_scores
from genpolicy.errors import GenpolicyError


def shows_published(study: Study) -> bool:
    """Whether the suite asks for published scores."""
    return "published" in study.suite.references


def published_table(analysis: Analysis) -> Table | None:
    """All published scores of the tasks; None if the suite does not ask for them or there are none."""
    if not shows_published(analysis.study):
        return None
    columns = (
        Column("task"),
        Column("algorithm"),
        Column("setting"),
        Column("mean", True),
        Column("standard deviation", True),
        Column("kind"),
        Column("source"),
    )
    rows = [
        Row(
            (
                Cell(task),
                Cell(score.algorithm),
                Cell(score.setting),
                number(score.mean, 0),
                number(score.std, 0),
                Cell(score.kind),
                Cell(score.source),
            ),
            {"task": task},
        )
        for task in analysis.tasks
        for score in _published(task)
    ]
    if not rows:
        return None
    note = (
        "As printed in the sources, in per cent or as a normalised score. They were measured with the sources' own "
        "budget, data and networks (seeds: see the source), not with those of this report: they show the range, and no "
        "difference to them is a finding."
    )
    return Table("published", "Published scores (other budget)", note, columns, tuple(rows))


def _published(task: str) -> list[PublishedScore]:
    try:
        return published_scores(task)
    except GenpolicyError:  # a Minari dataset that is not on this machine
        return []


def published_cell(group: Group) -> Cell:
    """The published score of the algorithm that a configuration is a recipe of, if it has one."""
    config: Mapping[str, Any] = group.runs[0].get("config") or {} if group.runs else {}
    name = str(config.get("algorithm") or "").rpartition("/")[2].removesuffix(".yaml")
    online = (config.get("trainer") or {}).get("online_steps") or 0
    setting = "after online" if online else "offline"
    for score in _published(group.task):
        if score.setting == setting and _plain(score.algorithm) == _plain(name):
            spread = "" if score.std is None else f" ± {score.std:g}"
            return Cell(f"{score.algorithm}: {score.mean:g}{spread}", score.mean, tone="muted")
    return Cell(NOTHING, tone="muted")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
