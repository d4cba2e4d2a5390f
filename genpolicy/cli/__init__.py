"""The command line: ``genpolicy train | evaluate | export | list | data | bench | demo | toy``.

Heavy imports stand inside the commands, so that ``--help`` answers at once.
"""

import json
import logging
import shlex
import sys
from enum import StrEnum
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from genpolicy.bench.cli import bench_app
from genpolicy.cli.data import data_app
from genpolicy.errors import ConfigError, GenpolicyError, NonFiniteError, suggest

if TYPE_CHECKING:
    from genpolicy.config import RunConfig
    from genpolicy.training.trainer import TrainResult

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

console = Console()
errors = Console(stderr=True)

app = typer.Typer(
    name="genpolicy",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Generative policies for offline reinforcement learning: train, evaluate, compare.\n\n"
    "Every command takes `--traceback`: show where an error came from.",
)
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")


class Listing(StrEnum):
    """What `genpolicy list` can list."""

    heads = "heads"
    critics = "critics"
    policies = "policies"
    backbones = "backbones"
    encoders = "encoders"
    reformulations = "reformulations"
    objectives = "objectives"
    algorithms = "algorithms"
    tasks = "tasks"


class Shown(StrEnum):
    """What `--cfg` can show."""

    job = "job"


@app.command()
def train(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="`key=value` pairs, as in `algorithm=meanflow_ql task=cube-single-play-singletask-v0 preset=small`.",
            show_default=False,
        ),
    ] = None,
    cfg: Annotated[Shown | None, typer.Option(help="Print the resolved configuration and stop.")] = None,
) -> None:
    """Train an agent on a task.

    Main keys: `algorithm=`, `task=`, `preset=paper|small|smoke`, `seed=`, `device=`, `run_dir=`, `resume=`,
    `data.dir=`, `trainer.steps=`, `trainer.batch_size=`, `trainer.eval_every=`, `trainer.checkpoint_every=` (0 turns an
    interval off). `trainer.online_steps=` goes on in the environment, as `online.sampling=` and
    `online.updates_per_step=` say.

    Exchange parts and set their options: `head=gaussian head.backbone=mlp head.backbone.hidden_dims=[256,256]
    critic.q_agg=mean policy.bc_weight=3`. `genpolicy train ... --cfg job` shows all keys.

    `seeds=8` makes eight runs, in folders seed0, seed1, ... of the run directory; with `vectorize=true` they are
    computed together.

    `resume=RUN_DIR` goes on with a run, or with all in such a folder, exactly where it stopped.
    """
    config = _configure(overrides or [])
    if cfg is not None:
        from genpolicy.config import to_yaml

        typer.echo(to_yaml(config), nl=False)
        return
    from genpolicy.config import offline_steps
    from genpolicy.progress import TrainingBar
    from genpolicy.training.run import resume, train_seeds
    from genpolicy.training.run import train as train_run

    with TrainingBar(offline_steps(config) if config.trainer.online_steps else None) as bar:
        if config.seeds > 1:
            runs = train_seeds(config, progress=bar)
        else:
            runs = [(resume if config.resume else train_run)(config, progress=bar)]
    for run, result in runs:
        _print_result(run.path, result)
    if any(result.state == "interrupted" for _, result in runs):
        goal, vectorize = runs[0][0].path, " vectorize=true" if config.vectorize else ""
        goal = f"{goal.parent}{vectorize}" if config.seeds > 1 else str(goal)
        console.print(f"Go on with: genpolicy train resume={goal}", highlight=False, soft_wrap=True)
        raise typer.Exit(EXIT_INTERRUPTED)


def _print_result(path: Path, result: "TrainResult") -> None:
    if result.updates == 0 and result.state == "completed":
        console.print(f"{path} is complete already: {result.step} steps.", highlight=False)
    else:
        spent = f"{result.seconds:.0f} s, {result.evaluation_share:.0%} of them in evaluations"
        console.print(f"{result.state} after {result.step} steps ({spent}): {path}", highlight=False, soft_wrap=True)
    if result.last_eval is not None:
        shown = ("evaluation/success", "evaluation/score", "evaluation/return")
        scores = [f"{name} {result.last_eval[name]:.3g}" for name in shown if name in result.last_eval]
        best = "" if result.best is None else f" (best {result.best['value']:.3g} at step {result.best['step']})"
        console.print(f"last {', '.join(scores)}{best}", highlight=False)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run directory of `genpolicy train`.", show_default=False)],
    episodes: Annotated[int, typer.Option(min=1, help="Episodes to play.")] = 50,
    workers: Annotated[int, typer.Option(min=1, help="Simulator processes.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the episodes; never those of training.")] = 0,
    checkpoint: Annotated[str, typer.Option(help="`best`, `last`, or a checkpoint's name.")] = "best",
    video: Annotated[bool, typer.Option("--video", help="Also record an episode into `RUN/figures`.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a trained agent in the simulator, with 95% intervals."""
    from genpolicy.bench.scoring import evaluate_run
    from genpolicy.progress import progress_bar

    with progress_bar(transient=True) as bar:
        episode_bar = bar.add_task("episodes", total=episodes)
        scores = evaluate_run(
            run,
            episodes=episodes,
            workers=workers,
            seed=seed,
            checkpoint=checkpoint,
            progress=lambda done, total: bar.update(episode_bar, completed=done, total=total),
        )
    if video:
        from genpolicy.bench.scoring import record_run

        scores["video"] = str(record_run(run, checkpoint=checkpoint, seed=seed))
    if as_json:
        typer.echo(json.dumps(scores, indent=2))
        return
    table = Table(
        "metric",
        "mean",
        "95% interval",
        title=f"{run}, checkpoint {scores['checkpoint']}, {episodes} episodes",
    )
    for name, value in scores["metrics"].items():
        table.add_row(name, f"{value['mean']:.4g}", f"{value['low']:.4g} to {value['high']:.4g}")
    console.print(table)
    if video:
        console.print(f"video: {scores['video']}", highlight=False, soft_wrap=True)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run directory of `genpolicy train`.", show_default=False)],
    file: Annotated[Path, typer.Argument(help="File to write: `.onnx` or `.pt2`.", show_default=False)],
    checkpoint: Annotated[str, typer.Option(help="`best`, `last`, or a checkpoint's name.")] = "best",
    compiled: Annotated[bool, typer.Option("--compiled", help="Compile a `.pt2` for this machine.")] = False,
) -> None:
    """Write a trained policy to a file that acts without genpolicy, with onnxruntime or torch alone."""
    from genpolicy import load_agent

    agent = load_agent(run, checkpoint=checkpoint, device="cpu")
    path = agent.export(file, "aot_inductor" if compiled else None)
    console.print(f"{path}: {path.stat().st_size / 1e6:.3g} MB", highlight=False, soft_wrap=True)


@app.command("list")
def list_(
    what: Annotated[Listing, typer.Argument(help="What to list.", show_default=False)],
    pattern: Annotated[
        str | None,
        typer.Argument(help="Only names that contain this or match it with wildcards, as in `'cube-*-task2-v0'`."),
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="Tasks: only the 73 of the FQL paper.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array of objects.")] = False,
) -> None:
    """List the parts, algorithms and tasks that exist, and which tasks this machine is ready for."""
    if paper and what is not Listing.tasks:
        raise ConfigError(f"--paper is for tasks: genpolicy list tasks --paper, not genpolicy list {what.value}.")
    rows = _matching(_rows(what, paper=paper), pattern, what)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    if what is Listing.algorithms:
        from genpolicy.listing import short

        rows = [short(row) for row in rows]
    if what is Listing.tasks:
        rows = [_short_task(row) for row in rows]
    columns = [column for column in rows[0] if column != "options"]
    table = Table(padding=0 if what in (Listing.algorithms, Listing.tasks) else (0, 1))
    for column in columns:
        table.add_column(column, no_wrap=column in ("name", "paper"), overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(row[column])) for column in columns))
    console.print(table, width=None if console.is_terminal else 200)  # a name that is cut in two cannot be searched for


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Directory of data, runs and report.")] = Path("demo"),
    workers: Annotated[int, typer.Option(min=1, help="Runs at the same time.")] = 2,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each algorithm.")] = 2,
) -> None:
    """Generate data, train MeanFlowQL and two baselines on a maze, evaluate them, write a report.

    Takes about eight minutes on two cores. Run again, it goes on where it stopped.
    """
    from genpolicy.bench.demo import run_demo

    run_demo(out, workers=workers, seeds=range(seeds), console=console)


@app.command("toy")
def toy_(
    quick: Annotated[bool, typer.Option("--quick", help="One density, one seed, short: under three minutes.")] = False,
    out: Annotated[Path, typer.Option(help="Directory of table, results, figures and runs.")] = Path("toy"),
    variants: Annotated[str | None, typer.Option(help="Rows, as in `residual,noise`; default: all.")] = None,
    densities: Annotated[str | None, typer.Option(help="What is cloned, as in `grid,moons`; default: all.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds of every run.", show_default=False)] = None,
    plugin: Annotated[
        str | None, typer.Option(help="Module or Python file that registers a reformulation or a head of yours.")
    ] = None,
) -> None:
    """Compare heads and reformulations of MeanFlow on 2-D bandits whose law and value are known exactly.

    Part 1 clones known densities, part 2 follows the gradient of a known Q. Run again, it goes on where it stopped.
    """
    from genpolicy.bench.toy import run_study
    from genpolicy.bench.toy_report import result_table
    from genpolicy.progress import progress_bar

    def names(text: str | None) -> list[str]:
        return [name.strip() for name in (text or "").split(",") if name.strip()]

    with progress_bar() as bar:
        run_bar = bar.add_task("runs", total=None)
        rows = run_study(
            out,
            quick=quick,
            variants=names(variants),
            densities=names(densities),
            seeds=seeds,
            plugin=plugin,
            command=shlex.join(["genpolicy", *sys.argv[1:]]),
            progress=lambda done, total, what: bar.update(run_bar, completed=done, total=total, description=what),
        )
    for table in result_table(rows):
        console.print(table)
    console.print(str(out / "table.md"), highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line; errors of a user's making end with exit code 2 and one message."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("genpolicy").setLevel(logging.INFO)
    show_traceback = "--traceback" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--traceback"]
    try:
        app(arguments)
    except NonFiniteError as error:
        _fail(error, show_traceback, code=1)
    except GenpolicyError as error:
        _fail(error, show_traceback, code=EXIT_USER_ERROR)
    except KeyboardInterrupt:
        errors.print("Interrupted.")
        sys.exit(EXIT_INTERRUPTED)


def _fail(error: Exception, show_traceback: bool, code: int) -> None:
    if show_traceback:
        raise error
    errors.print(f"Error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


def _configure(overrides: list[str]) -> "RunConfig":
    from genpolicy.config import compose, parse_overrides

    bad = [text for text in overrides if text.startswith("-")]
    if bad:
        raise ConfigError(f"Unknown option {bad[0]}; settings are written key=value. See genpolicy train --help.")
    keys = dict(parse_overrides(overrides))
    if keys.get("resume") is None:
        return compose(overrides)
    from genpolicy.training.run import stored_config

    rest = [text for text in overrides if not text.startswith("resume=")]
    given = compose(rest) if rest else None
    return stored_config(str(keys["resume"]), given, tuple(key for key in keys if key != "resume"))


def _matching(rows: list[dict[str, Any]], pattern: str | None, what: Listing) -> list[dict[str, Any]]:
    if pattern is None:
        return rows
    wild = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    found = [row for row in rows if fnmatch(row["name"], wild)]
    if not found:
        nearest = suggest(pattern, [row["name"] for row in rows])
        raise ConfigError(f"None of the {len(rows)} {what.value} matches '{pattern}'.{nearest}")
    return found


def _short_task(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `task_rows` as narrow as a terminal: is it one of the 73, are its data here, can it be scored here."""
    missing = row["missing_for_scoring"]
    return {
        "name": row["name"],
        "metric": row["metric"],
        "discount": row["discount"],
        "paper": "yes" if row["in_paper"] else "",
        "data": "yes" if row["data_here"] else "no",
        "scoring": "yes" if missing is None else f"needs {missing}",
    }


def _rows(what: Listing, *, paper: bool = False) -> list[dict[str, Any]]:
    if what is Listing.tasks:
        from genpolicy.catalogue import task_rows

        return task_rows(paper=paper)
    from genpolicy.listing import part_rows, recipe_rows

    return recipe_rows() if what is Listing.algorithms else part_rows(what.value)
