"""The command line of suites: ``genpolicy bench list | plan | run | status | report``."""

import json
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from genpolicy.errors import ConfigError

if TYPE_CHECKING:
    from genpolicy.bench.suite import Suite

OUTPUTS = Path("benchmarks_out")
EXIT_FAILED, EXIT_INTERRUPTED = 1, 130

console = Console()
bench_app = typer.Typer(no_args_is_help=True, help="Run ablations from suites: plan, run, watch and report them.")

SuiteArgument = Annotated[
    str, typer.Argument(help="A name of `genpolicy bench list`, or a path that ends in `.yaml`.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="`tasks=[a,b] seeds=4 factors.NAME=[level,level]` restrict the suite; other `key=value` go to all jobs.",
        show_default=False,
    ),
]
Out = Annotated[Path | None, typer.Option(help="Results folder; default: `benchmarks_out/SUITE`.", show_default=False)]
Quick = Annotated[bool, typer.Option("--quick", help="The suite in miniature, as it declares it.")]
Data = Annotated[
    Path | None,
    typer.Option(help="Directory of datasets; default: each source's own, and `OUT/data` for generated ones."),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Jobs at the same time; default: as many as fit.", show_default=False)
]
SuiteOrOut = Annotated[str, typer.Argument(help="A suite's name, or a results folder.", show_default=False)]


class Engine(StrEnum):
    """Where jobs run."""

    local = "local"
    ray = "ray"
    slurm = "slurm"


class OldResults(StrEnum):
    """What to do with results of other code."""

    keep = "keep"
    rerun = "rerun"


class KeepRuns(StrEnum):
    """What to keep of finished runs."""

    all = "all"
    logs = "logs"
    none = "none"


@bench_app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array of objects.")] = False) -> None:
    """List the suites that come with the library."""
    from genpolicy.bench.suite import load_suite, suite_files

    suites = [load_suite(name) for name in suite_files()]
    rows = [
        {
            "name": suite.name,
            "title": suite.title,
            "factors": ", ".join(dict.fromkeys(name for part in suite.parts for name in part.factors)),
            "tasks": len({task for part in suite.parts for task in part.task_names}),
            "seeds": max(len(part.seeds) for part in suite.parts),
        }
        for suite in suites
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    console.print(table)


@bench_app.command()
def plan(
    suite: SuiteArgument,
    overrides: Overrides = None,
    out: Out = None,
    quick: Quick = False,
    data: Data = None,
    workers: Workers = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Do a few updates of every configuration for a better estimate.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print every job as a JSON line.")] = False,
) -> None:
    """Print the jobs of a suite, what is missing, and what it will cost; runs nothing."""
    from genpolicy.bench.estimates import estimate
    from genpolicy.bench.plan_view import print_plan
    from genpolicy.bench.runner import plan_suite
    from genpolicy.bench.workspace import Workspace
    from genpolicy.progress import progress_bar

    chosen, folder = _choose(suite, overrides, out, quick)
    jobs, _ = plan_suite(chosen, folder, data=data)
    workspace = Workspace(folder)
    finished = workspace.finished()
    if as_json:
        for job in jobs:
            typer.echo(json.dumps(job.row() | {"finished": job.key in finished, "missing": job.cell.source.missing}))
        return
    results = workspace.read_results() if (folder / "plan.json").is_file() else []
    with progress_bar(transient=True) as bar:
        task = bar.add_task("calibrating", total=None, visible=calibrate)
        costs = estimate(
            jobs,
            results,
            calibrate=calibrate,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print_plan(console, chosen, jobs, finished, costs, workers)


@bench_app.command()
def run(
    suite: SuiteArgument,
    overrides: Overrides = None,
    out: Out = None,
    quick: Quick = False,
    workers: Workers = None,
    engine: Annotated[Engine, typer.Option(help="Where jobs run.")] = Engine.local,
    engine_option: Annotated[
        list[str] | None,
        typer.Option(help="`name=value` of the engine, as in `slurm_partition=gpu`.", show_default=False),
    ] = None,
    retries: Annotated[int, typer.Option(min=0, help="How many times a job that fails is tried again.")] = 1,
    old_results: Annotated[
        OldResults | None, typer.Option(help="Results of other code: keep them beside new ones, or rerun them.")
    ] = None,
    data: Data = None,
    generate: Annotated[bool, typer.Option("--generate", help="Generate data that the suite wants generated.")] = False,
    vectorize: Annotated[
        bool, typer.Option("--vectorize", help="Train all seeds of a configuration together, as one job.")
    ] = False,
    keep_runs: Annotated[KeepRuns, typer.Option(help="What to keep of finished runs.")] = KeepRuns.logs,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write the report at the end.")] = True,
) -> None:
    """Run what a suite has no result of yet, and write its report. Run again, it goes on where it stopped."""
    from genpolicy.bench.executors import make_executor
    from genpolicy.bench.executors.progress import show
    from genpolicy.bench.plan_view import print_outcome
    from genpolicy.bench.runner import run_suite
    from genpolicy.progress import progress_bar

    chosen, folder = _choose(suite, overrides, out, quick)
    executor = make_executor(engine.value, workers=workers, retries=retries, options=_pairs(engine_option or []))
    with progress_bar(transient=True) as bar:
        task = bar.add_task("data", total=None, visible=False)
        outcome = run_suite(
            chosen,
            folder,
            executor=executor,
            retries=retries,
            old_results=None if old_results is None else old_results.value,
            data=data,
            generate=generate,
            workers=workers,
            vectorize=vectorize,
            keep_runs=keep_runs.value,
            arguments=[*(overrides or []), *(["--quick"] if quick else [])],
            progress=lambda done, total, what: bar.update(
                task, completed=done, total=total, description=what, visible=done < total
            ),
            observe=show,
        )
    print_outcome(console, outcome)
    if outcome.interrupted:
        console.print("Interrupted; the same command goes on.", highlight=False)
        raise typer.Exit(EXIT_INTERRUPTED)
    if report and outcome.status.completed + outcome.status.diverged:
        _report(outcome.path)
    if outcome.failures:
        raise typer.Exit(EXIT_FAILED)


@bench_app.command()
def status(
    suite: SuiteOrOut,
    quick: Quick = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until everything is done.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how far a suite is."""
    from genpolicy.bench.status import status_view
    from genpolicy.bench.workspace import Workspace

    workspace = Workspace.open(find_out(suite, quick))
    if as_json:
        found = workspace.status()
        facts = {
            name: getattr(found, name) for name in ("jobs", "completed", "diverged", "failed", "running", "waiting")
        }
        typer.echo(json.dumps(facts, indent=2))
        return
    if not watch:
        console.print(status_view(workspace))
        return
    from rich.live import Live

    with Live(status_view(workspace), console=console, auto_refresh=False) as live:
        while (now := workspace.status()).running or now.waiting:
            time.sleep(every)
            live.update(status_view(workspace), refresh=True)


@bench_app.command()
def report(suite: SuiteOrOut, quick: Quick = False) -> None:
    """Write tables, figures and a page about the results that are there."""
    _report(find_out(suite, quick))


def default_out(suite: "Suite", quick: bool) -> Path:
    """Where results of a suite go unless the user says otherwise."""
    return OUTPUTS / (f"{suite.name}-quick" if quick and not suite.included else suite.name)


def find_out(suite: str, quick: bool = False) -> Path:
    """The results folder that is meant: a path, or a suite's name.

    Raises:
        ConfigError: if there is none.
    """
    places = [Path(suite), OUTPUTS / (f"{Path(suite).stem}-quick" if quick else Path(suite).stem)]
    for place in places:
        if (place / "plan.json").is_file():
            return place
    looked = " and ".join(map(str, places))
    raise ConfigError(
        f"There are no results of '{suite}': looked at {looked}. `genpolicy bench run {suite}` makes them."
    )


def _choose(suite: str, overrides: list[str] | None, out: Path | None, quick: bool) -> "tuple[Suite, Path]":
    """The suite that is meant, and its results folder."""
    from genpolicy.bench.suite import load_suite

    chosen = load_suite(suite, overrides or [], quick=quick)
    return chosen, out or default_out(chosen, quick)


def _report(folder: Path) -> None:
    from genpolicy.bench.suite_report import write_report

    console.print(f"report: {write_report(folder)}", highlight=False, soft_wrap=True)


def _pairs(texts: list[str]) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise ConfigError(f"--engine-option {text} is not of the form name=value.")
    return dict(text.split("=", 1) for text in texts)
