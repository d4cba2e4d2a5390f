"""The report of a suite: a page, tables and figures from a results folder."""

from pathlib import Path

from genpolicy.bench.suite_report.analysis import analyse
from genpolicy.bench.suite_report.costs import cost_table
from genpolicy.bench.suite_report.drawing import draw, save
from genpolicy.bench.suite_report.figures import pictures, task_pictures
from genpolicy.bench.suite_report.loading import Study, load_studies
from genpolicy.bench.suite_report.online import online_table
from genpolicy.bench.suite_report.page import render_overview, render_page
from genpolicy.bench.suite_report.published import published_table
from genpolicy.bench.suite_report.records import Analysis
from genpolicy.bench.suite_report.results import aggregate_table, describe_seeds, score_tables
from genpolicy.bench.suite_report.runs import runs_csv
from genpolicy.bench.suite_report.tables import Table, to_csv, to_latex, to_markdown
from genpolicy.bench.workspace import Workspace
from genpolicy.training.storage import write_atomic

__all__ = ["analyse", "load_studies", "write_report"]

NOTES = "notes.txt"
"""In the results folder: paragraphs of the people who ran the suite, for the page; optional."""


def write_report(out: Path, folder: Path | None = None) -> Path:
    """Write page, tables and figures of a results folder; complete or not.

    The numbers depend on the results alone: the same results give the same files.

    Args:
        out: the folder of `genpolicy bench run`.
        folder: where the report goes; by default ``report`` in the results folder.

    Returns:
        ``index.html``. Beside it stand ``table.md``, ``table.tex``, ``table.csv`` (scores), ``aggregates.csv``,
        ``online.csv`` (gains of online phases, if there are any), ``runs.csv`` (every job) and the figures as PNG and
        SVG; for a suite of suites in a folder for each.

    Raises:
        ConfigError: if `out` is no results folder, or Jinja is not installed.
    """
    folder = out / "report" if folder is None else folder
    studies = load_studies(out)
    if len(studies) == 1:
        study = next(iter(studies.values()))
        return _write(out, folder, study)[0]
    analyses = {name: _write(out, folder / name, study)[1] for name, study in studies.items()}
    page = folder / "index.html"
    write_atomic(page, render_overview(Workspace.open(out).suite, analyses).encode())
    return page


def _write(out: Path, folder: Path, study: Study) -> tuple[Path, Analysis]:
    folder.mkdir(parents=True, exist_ok=True)
    analysis = analyse(study)
    aggregates = [aggregate_table(analysis, family) for family in analysis.families]
    scores, costs, published = score_tables(analysis), cost_table(analysis), published_table(analysis)
    online = online_table(analysis)
    gains = [online] if online else []
    tables: list[Table] = [*aggregates, *scores, *gains, costs, *([published] if published else [])]
    texts = {
        "table.md": to_markdown(tables),
        "table.tex": to_latex(tables),
        "runs.csv": runs_csv(study),
        **{_csv_name(table): to_csv(table) for table in (*aggregates, *scores, *gains, costs)},
    }
    for name, text in texts.items():
        write_atomic(folder / name, text.encode())
    seeds = describe_seeds(analysis)
    drawings = list(draw(pictures(analysis, seeds)))
    for drawing in drawings:
        save(drawing, folder)
    if len(analysis.tasks) > 1:  # on a page every task by itself, which a phone can show
        drawings = [one for one in drawings if not one.picture.id.startswith("scores")]
        drawings += draw(task_pictures(analysis, seeds))
    notes = (out / NOTES).read_text() if (out / NOTES).is_file() else ""
    page = folder / "index.html"
    write_atomic(page, render_page(analysis, tables, drawings, notes=notes).encode())
    return page, analysis


def _csv_name(table: Table) -> str:
    return "table.csv" if table.id == "scores" else f"{table.id.replace('scores-', 'table-')}.csv"
