"""The command line of datasets: ``genpolicy data generate | info | check | convert``."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

EXIT_PROBLEMS = 2

console = Console()
data_app = typer.Typer(no_args_is_help=True, help="Generate, inspect, check and convert datasets.")


class DataFormat(StrEnum):
    """What `genpolicy data convert` reads and writes."""

    ogbench = "ogbench"
    d4rl = "d4rl"
    minari = "minari"


@data_app.command()
def generate(
    name: Annotated[str, typer.Argument(help="Dataset, as in `cube-single-play-v0`.", show_default=False)],
    episodes: Annotated[int, typer.Option(min=1, help="Training episodes of 1,001 rows.")] = 100,
    validation_episodes: Annotated[
        int | None, typer.Option(min=1, help="Validation episodes; default: a tenth.", show_default=False)
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Simulator processes.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the dataset.")] = 0,
    out: Annotated[Path, typer.Option(help="Directory of the files.")] = Path("~/.ogbench/data"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing dataset.")] = False,
) -> None:
    """Generate a dataset with OGBench's own controllers, without a download.

    Interrupted, the same command goes on where it stopped. OGBench's own loader reads the result.
    """
    from genpolicy.data.generation import generate as make
    from genpolicy.progress import progress_bar

    with progress_bar(transient=True) as bar:
        episode_bar = bar.add_task(name, total=None)
        path = make(
            name,
            directory=out.expanduser(),
            episodes=episodes,
            validation_episodes=validation_episodes,
            workers=workers,
            seed=seed,
            overwrite=overwrite,
            progress=lambda done, total: bar.update(episode_bar, completed=done, total=total),
        )
    console.print(str(path), highlight=False, soft_wrap=True)


@data_app.command()
def info(
    path_or_id: Annotated[
        str, typer.Argument(help="A task, a dataset, an `.npz` or `.hdf5` file, or `minari:ID`.", show_default=False)
    ],
    directory: Annotated[Path | None, typer.Option("--dir", help="Where the files are.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a dataset holds: sizes, ranges, rewards, checksum.

    Of a task also its protocol, published scores and tuned hyperparameters, whether its data are here or not.
    """
    from genpolicy.data.tasks import list_tasks

    task = next((task for task in list_tasks() if task.name == path_or_id), None)
    facts: dict[str, Any] = {}
    if task is not None:
        from genpolicy.catalogue import task_facts

        facts = task_facts(task, directory)
    if task is None or Path(facts["path"]).is_file():  # a folder of many files is not read for this
        from genpolicy.data import describe

        facts |= describe(path_or_id, directory)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    published, tuned = facts.pop("published", []), facts.pop("tuned", [])
    table = Table("", "", show_header=False)
    for name, value in facts.items():
        table.add_row(name, _in_words(value))
    console.print(table)
    _print_published(published)
    if tuned:
        console.print(_plain_table("tuned hyperparameters", tuned, ("algorithm", "key", "value", "when", "source")))


@data_app.command()
def check(
    path: Annotated[str, typer.Argument(help="An `.npz` or `.hdf5` file, or a Minari folder.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check data of your own: everything that is wrong at once, with row numbers.

    Exit code 2 if something has to be mended. What a file must hold: docs/data.md, "Data of your own".
    """
    from dataclasses import asdict

    from genpolicy.data import check_file

    report = check_file(path)
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=2))
    else:
        table = Table("", "", show_header=False)
        arrays = {f"array {name}": value for name, value in report.arrays.items()}
        for name, value in {"path": report.path, "layout": report.layout, **arrays, **report.summary}.items():
            table.add_row(name, Text(_in_words(value)))
        console.print(table)
        for title, lines in (("note", report.notes), ("problem", report.problems)):
            for line in lines:
                console.print(f"{title}: {line}", markup=False, highlight=False, soft_wrap=True)
        console.print("Nothing is wrong." if not report.problems else f"{len(report.problems)} problems.")
    if report.problems:
        raise typer.Exit(EXIT_PROBLEMS)


@data_app.command("convert")
def convert_(
    source: Annotated[
        str, typer.Argument(help="An `.npz` or `.hdf5` file, a Minari folder, or `minari:ID`.", show_default=False)
    ],
    target: Annotated[
        Path, typer.Argument(help="A file ending in `.npz` or `.hdf5`, else a Minari folder.", show_default=False)
    ],
    from_: Annotated[
        DataFormat | None, typer.Option("--from", help="Format of SOURCE, if its name does not tell.")
    ] = None,
    to: Annotated[DataFormat | None, typer.Option("--to", help="Format of TARGET, if its name does not tell.")] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="OGBench task whose rewards and masks are written (its files have none), or D4RL task whose "
            "environment and reference returns a Minari dataset shall name."
        ),
    ] = None,
    environment: Annotated[
        str | None, typer.Option(help="Gymnasium id that a Minari dataset shall name; default: the task's.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing target.")] = False,
) -> None:
    """Convert a dataset between OGBench's npz, D4RL's HDF5 and Minari, without changing a number."""
    from genpolicy.data import convert_dataset

    path = convert_dataset(
        source,
        target,
        source_format=None if from_ is None else from_.value,
        target_format=None if to is None else to.value,
        task=task,
        environment=environment,
        overwrite=overwrite,
    )
    console.print(str(path), highlight=False, soft_wrap=True)


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        lines = [f"{key}: {_in_words(entry)}" for key, entry in value.items()]
        return ("\n" if any(isinstance(entry, dict) for entry in value.values()) else ", ").join(lines)
    if isinstance(value, list | tuple):
        return ", ".join(map(_in_words, value))
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _print_published(scores: list[dict[str, Any]]) -> None:
    """Scores in one table, their sources numbered below it."""
    sources = list(dict.fromkeys((score["kind"], score["source"]) for score in scores))
    rows = [
        {
            "algorithm": score["algorithm"],
            "setting": score["setting"],
            "score": f"{score['mean']:g}" + ("" if score["std"] is None else f" ± {score['std']:g}"),
            "source": sources.index((score["kind"], score["source"])) + 1,
        }
        for score in scores
    ]
    if rows:
        console.print(_plain_table("published scores", rows, tuple(rows[0])))
    for number, (kind, source) in enumerate(sources, start=1):
        console.print(f"({number}) {kind}: {source}", highlight=False, markup=False)


def _plain_table(title: str, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(Text(str(row[column])) for column in columns))
    return table
