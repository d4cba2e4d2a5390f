"""The demo's report: one HTML file with its figures inside."""

import base64
import html
import io
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from genpolicy.bench.figures import action_distributions, learning_curves, score_bars
from genpolicy.data import load_dataset
from genpolicy.training.run import restore

COLUMNS = ("", "success", "95% interval", "by seed", "mean return", "episodes")
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 54rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; }
td + td, th + th { text-align: right; } img { max-width: 100%; } figure { margin: 1.5rem 0; }
figcaption { color: #555; font-size: .9rem; } pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; }
"""


def write_demo_report(
    out: Path,
    *,
    task: str,
    runs: dict[str, list[Path]],
    rows: list[dict[str, Any]],
    seconds: float,
    common: tuple[str, ...],
) -> Path:
    """Draw the figures, save them under ``figures/``, and write ``report.html``.

    Args:
        out: the demo's directory.
        task: the task's name.
        runs: run directories by label.
        rows: the table, from `genpolicy.bench.demo.summarise`.
        seconds: wall time of the call that wrote the report.
        common: overrides that all runs share.
    """
    train_set, _ = load_dataset(task, out / "data", download=False)
    agents = {label: restore(paths[0], checkpoint="last") for label, paths in runs.items()}
    first = next(iter(runs.values()))
    figures = {
        "learning_curves": (
            learning_curves(runs, "evaluation/success", "success"),
            f"Success in the simulator during training: mean of {len(first)} seeds, band from the lowest to the "
            "highest seed. 20 episodes per point and seed.",
        ),
        "success": (
            score_bars(rows, "success"),
            "Success of the last checkpoint over new episodes, all seeds together, with 95% Wilson intervals over "
            "episodes; dots are seeds.",
        ),
        "actions": (
            action_distributions(agents, train_set),
            "Actions at three states where many ways lead on: those of the dataset's nearest states, and samples of "
            "each trained head before clipping and before the choice among candidates (seed 0). The square is the "
            "action range.",
        ),
    }
    (out / "figures").mkdir(exist_ok=True)
    parts = []
    for name, (figure, caption) in figures.items():
        figure.savefig(out / "figures" / f"{name}.png", dpi=150)
        parts.append(
            f'<figure><img alt="{name}" src="data:image/png;base64,{_inline(figure)}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
    body = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>genpolicy demo</title><style>{STYLE}</style>
<h1>MeanFlowQL, a Gaussian policy and behaviour cloning on {html.escape(task)}</h1>
<p>The dataset was generated on this machine with OGBench's own controller ({len(train_set):,} transitions of
{train_set.num_episodes} episodes, which go to random places). The task is to reach one goal. MeanFlowQL and Gaussian
QL share critic, rule and budget and differ in the head; behaviour cloning has MeanFlowQL's head and no critic.</p>
{_table(rows)}
{"".join(parts)}
<h2>Commands</h2>
<pre>{html.escape(_commands(runs, common))}</pre>
<p>Versions, data checksum and hardware stand in each run's <code>provenance.json</code>. This call took
{seconds / 60:.1f} minutes.</p></html>
"""
    report = out / "report.html"
    report.write_text(body)
    return report


def _table(rows: list[dict[str, Any]]) -> str:
    head = f"<tr>{''.join(f'<th>{name}</th>' for name in COLUMNS)}</tr>"
    lines = [
        f"<tr><td>{html.escape(row['label'])}</td><td>{row['success']:.0%}</td>"
        f"<td>{row['low']:.0%} to {row['high']:.0%}</td>"
        f"<td>{', '.join(f'{value:.0%}' for value in row['by_seed'])}</td>"
        f"<td>{row['return']:.1f}</td><td>{row['episodes']}</td></tr>"
        for row in rows
    ]
    return f"<table>{head}{''.join(lines)}</table>"


def _commands(runs: dict[str, list[Path]], common: tuple[str, ...]) -> str:
    lines = [
        f"# each run, with its own algorithm= and seed= (see config.yaml in {next(iter(runs.values()))[0].parent})"
    ]
    return "\n".join([*lines, f"genpolicy train algorithm=meanflow_ql seed=0 {' '.join(common)}"])


def _inline(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()
