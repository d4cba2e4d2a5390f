import csv
import html
import io
import itertools
import json
import re
import shutil
import subprocess
import zlib

import numpy as np
import pytest
import yaml

from genpolicy.bench.suite import load_suite
from genpolicy.bench.suite_reading import read_suite
from genpolicy.bench.suite_report import analyse, load_studies, write_report
from genpolicy.bench.suite_report.conclusions import conclude, warn
from genpolicy.bench.suite_report.costs import cost_table
from genpolicy.bench.suite_report.data_facts import data_facts, official_episodes
from genpolicy.bench.suite_report.facts import machines
from genpolicy.bench.suite_report.published import published_table
from genpolicy.bench.suite_report.results import score_tables
from genpolicy.bench.suite_report.tables import (
    Cell,
    Column,
    Row,
    Table,
    escape_latex,
    number,
    to_csv,
    to_latex,
    to_markdown,
)
from genpolicy.data.generation.recipes import RECIPES
from genpolicy.errors import ConfigError
from tests.browser import CHROMIUM, needs_chromium

TASKS = [f"cube-single-play-singletask-task{number}-v0" for number in (1, 2)]
FORMS = {"residual": 0.5, "average_velocity": 0.5, "noise": 0.1}
STEPS = {"1": 1, "10": 10}


def declare(*, tasks=TASKS, forms=FORMS, seeds=4, **declared):
    return {
        "title": "Which form is best?",
        "question": "MeanFlow can be asked for different things; which one learns best?",
        "kind": "train",
        "tasks": {task: {"generate": 100} for task in tasks},
        "seeds": seeds,
        "base": ["algorithm=fql", "preset=small"],
        "factors": {
            "form": {form: f"head.reformulation={form}" for form in forms},
            "steps": {steps: f"head.sampling_steps={steps}" for steps in STEPS},
        },
        "protocol": {"evaluations": "mean_of_last", "count": 3},
        "baseline": {"form": next(iter(forms))},
        "references": ["published"],
    } | declared


def results_folder(out, *, keep=None, changed=None, name="forms", metric="success", declaration=None, **declared):
    """A results folder as `genpolicy bench run` leaves it, with made-up scores.

    keep(job) says whether a planned job has a result; changed(run) may alter one.
    """
    declaration = declare(**declared) if declaration is None else declaration
    suite = read_suite(name, declaration, "test")
    for folder in ("results", "failed"):
        (out / folder).mkdir(parents=True)
    (out / "suite.yaml").write_text(yaml.safe_dump(declaration, sort_keys=False))
    plan = []
    for part in suite.parts:
        for seed, task, levels in itertools.product(part.seeds, part.task_names, grid(part)):
            key = f"{zlib.crc32(f'{part.name}{task}{levels}{seed}'.encode()):016x}"
            row = {"key": key, "suite": part.name, "kind": part.kind, "task": task, "levels": levels, "seed": seed}
            plan.append(row)
    for job in plan:
        if keep is not None and not keep(job):
            continue
        run = made_up_run(job, metric)
        if changed is not None:
            run = changed(run) or run
        (out / "results" / f"{job['key']}.json").write_text(json.dumps(run))
    (out / "plan.jsonl").write_text("".join(json.dumps(job) + "\n" for job in plan))
    data = {job["task"]: {"dataset": None, "sha256": "ab" * 32, "bytes": 1, "generated": 100} for job in plan}
    (out / "data.json").write_text(json.dumps(data))
    settings = {"suite": name, "jobs": len(plan), "code": {"digest": "0123456789ab"}, "missing": {}}
    (out / "plan.json").write_text(json.dumps(settings))
    return out


def grid(suite):
    for levels in itertools.product(*suite.factors.values()):
        yield dict(zip(suite.factors, levels, strict=True))


def made_up_run(job, metric):
    steps, level = int(job["levels"].get("steps", 1)), FORMS.get(job["levels"].get("form"), 0.4)
    noise = np.random.default_rng(zlib.crc32(job["key"].encode())).normal()
    score = float(np.clip(level + 0.02 * steps + 0.05 * noise, 0, 1))
    overrides = ["algorithm=fql", f"task={job['task']}", f"seed={job['seed']}", "head.name=a b"]
    return job | {
        "kind": "train",
        "metric": metric,
        "state": "completed",
        "score": score * (100 if metric == "score" else 1),
        "evaluations": [{"step": 100, "score": score, "return": -100.0, "length": 80.0}],
        "episodes": 50,
        "updates": 20_000,
        "updates_per_second": 250.0,
        "act_milliseconds": 0.2 * steps,
        "evaluations_per_action": steps,
        "candidates": 1,
        "action_chunk": 1,
        "policy_parameters": 123_456,
        "critic_parameters": 234_567,
        "seconds": 90.0,
        "overrides": overrides,
        "config": {
            "algorithm": "fql",
            "preset": "small",
            "trainer": {"steps": 20_000, "online_steps": 0, "batch_size": 128},
            "head": {"backbone": {"hidden_dims": [64, 64]}},
            "critic": {"hidden_dims": [64, 64]},
        },
        "dataset_sha256": "ab" * 32,
        "code": {"version": "0.1.0", "digest": "0123456789ab", "git": None},
        "machine": {
            "versions": {"python": "3.11.2", "torch": "2.13.0"},
            "hardware": {"cpu": "A <Fast> CPU", "cores": 2, "memory_bytes": 2**33, "gpus": []},
            "platform": "Linux",
        },
        "finished": "2026-01-02T03:04:05+00:00",
    }


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A folder with everything that a report must tell: a diverged run, failed and missing jobs, two versions."""

    def changed(run):
        if run["levels"] == {"form": "noise", "steps": "1"} and run["seed"] == 2:
            return run | {"state": "diverged", "score": None}
        if run["seed"] == 1:
            run["code"] = {"version": "0.1.0", "digest": "ffff00001111", "git": {"commit": "c0ffee" * 7, "dirty": True}}
        return run

    folder = results_folder(tmp_path_factory.mktemp("report") / "forms_out", keep=keep_most, changed=changed)
    lost = next(row for row in planned(folder) if row["seed"] == 3 and row["levels"]["form"] == "noise")
    record = {"key": lost["key"], "state": "failed", "error": "killed by <SIGKILL>", "attempts": 2, "time": 0.0}
    (folder / "failed" / f"{lost['key']}.json").write_text(json.dumps(record))
    return folder


def keep_most(job):
    return not (job["seed"] == 3 and job["levels"]["form"] == "noise" and job["levels"]["steps"] == "1")


def planned(folder):
    return [json.loads(line) for line in (folder / "plan.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def page(out):
    return write_report(out)


def only(folder):
    (study,) = load_studies(folder).values()
    return study


# Numbers


def find(analysis, task, **levels):
    (found,) = (group for (name, one), group in analysis.groups.items() if name == task and dict(one.levels) == levels)
    return found


def test_diverged_run_counts_as_the_worst_value_and_is_named(out):
    analysis = analyse(only(out))
    group = find(analysis, TASKS[0], form="noise", steps="1")
    assert group.diverged == (2,)
    assert group.scores[2] == 0.0
    assert group.mean is not None
    assert group.mean.value == pytest.approx(sum(group.scores.values()) / 3)
    (table,) = score_tables(analysis)
    row = next(row for row in table.rows if row.levels == {"task": TASKS[0], "form": "noise", "steps": "1"})
    assert any(cell.text == "3 of 4, 1 diverged" for cell in row.cells)
    assert any("diverged" in sentence for sentence in warn(analysis))


def test_diverged_run_of_a_metric_without_bound_counts_as_the_worst_run_of_its_task(tmp_path):
    def changed(run):
        diverged = run["levels"]["form"] == "noise" and run["seed"] == 0
        return run | {"score": -5.0, "state": "diverged" if diverged else "completed"}

    task = "pen-human-v1"
    out = results_folder(tmp_path / "out", tasks=[task], metric="score", changed=changed, seeds=2)
    assert find(analyse(only(out)), task, form="noise", steps="1").scores == {0: -5.0, 1: -5.0}


def test_task_on_which_every_run_diverges_has_no_score_if_its_metric_has_no_bound(tmp_path):
    def changed(run):
        run["metric"] = "W2" if run["task"].startswith("cloning") else "return"
        return run | {"state": "diverged", "score": None, "config": {}, "episodes": 0}

    declaration = load_suite("toy", ["factors.variant=[residual,flow]", "tasks=[cloning/grid]"]).declaration
    analysis = analyse(only(results_folder(tmp_path / "out", name="toy", declaration=declaration, changed=changed)))
    group = find(analysis, "cloning/grid", variant="flow")
    assert group.scores == {}  # 0 would be a perfect copy
    assert len(group.diverged) == 5
    assert analysis.differences["cloning/grid", group.configuration].verdict == "no common seeds"


def test_configurations_are_compared_with_the_baseline_of_the_same_other_levels(out):
    analysis = analyse(only(out))
    pairs = {one.label: base.label if base else None for one, base in analysis.baselines.items()}
    assert pairs["noise · 10"] == "residual · 10"
    assert pairs["residual · 1"] is None


def test_only_what_the_intervals_support_is_called_a_difference(out):
    analysis = analyse(only(out))
    verdicts = {(task, one.label): difference.verdict for (task, one), difference in analysis.differences.items()}
    assert verdicts[TASKS[0], "noise · 10"] == "supported: worse"  # 0.3 against 0.7, the seeds' deviation is 0.05
    equal = [verdicts[task, f"average_velocity · {steps}"] for task in TASKS for steps in STEPS]
    assert "not supported by the intervals" in equal
    sentences = " ".join(conclude(analysis))
    assert "form = noise, steps = 10 is worse than form = residual, steps = 10" in sentences
    assert "form = noise, steps = 10 is better" not in sentences


def test_one_seed_supports_nothing(tmp_path):
    analysis = analyse(only(results_folder(tmp_path / "out", seeds=1)))
    assert {difference.verdict for difference in analysis.differences.values()} == {"too few seeds for an interval"}
    assert all("is better" not in sentence and "is worse" not in sentence for sentence in conclude(analysis))
    assert any("one seed" in sentence for sentence in warn(analysis))


def test_published_scores_are_listed_only_where_there_are_any(tmp_path):
    unpublished = "pointmaze-medium-navigate-singletask-task5-v0"
    found, none = (
        published_table(analyse(only(results_folder(tmp_path / task, tasks=[task], seeds=1))))
        for task in (TASKS[0], unpublished)
    )
    assert {row.levels["task"] for row in found.rows} == {TASKS[0]}
    assert none is None


def test_runs_that_were_trained_together_are_counted_beside_the_gpu(tmp_path):
    def changed(run):
        machine = run["machine"] | {"device": "cuda"}
        return run | {"machine": machine} | ({"together": 3} if run["levels"]["form"] == "noise" else {})

    assert not any("--vectorize" in sentence for sentence in warn(analyse(only(results_folder(tmp_path / "alone")))))
    analysis = analyse(only(results_folder(tmp_path / "out", changed=changed)))
    (sentence,) = [sentence for sentence in warn(analysis) if "--vectorize" in sentence]
    assert sentence.startswith("16 of 48 runs were trained in groups of up to 3 seeds")
    assert "share the minutes" in cost_table(analysis).note
    ((machine, count),) = machines(analysis.study.runs)
    assert "networks on cuda" in machine and count == 48


def test_online_phase_is_set_against_the_offline_end_of_the_same_runs(tmp_path):
    def changed(run):
        offset = 0.01 * run["seed"]
        ends = {"residual": (0.2, 0.8), "average_velocity": (0.5, 0.5), "noise": (0.3, None)}[run["levels"]["form"]]
        phases = [("offline", 0.0), ("offline", ends[0]), ("online", 0.1), ("online", ends[1])]
        scored = [{"phase": phase, "score": score and score + offset} for phase, score in phases if score is not None]
        if ends[1] is None:  # without an online phase
            scored = scored[:2]
        return run | {"evaluations": [{"step": step, **one} for step, one in enumerate(scored)]}

    last = {"protocol": {"evaluations": "last"}}
    write_report(results_folder(tmp_path / "out", tasks=TASKS[:1], seeds=3, changed=changed, **last))
    rows = list(csv.DictReader((tmp_path / "out" / "report" / "online.csv").open()))
    assert [(row["form"], row["statement"]) for row in rows if row["steps"] == "1"] == [
        ("residual", "supported: better"),
        ("average_velocity", "not supported by the intervals"),
    ]
    before, after, gain = (float(rows[0][name]) for name in ("before", "after", "gain"))
    assert (before, after, gain) == pytest.approx((21, 81, 60))
    assert float(rows[0]["before low"]) < 21 < float(rows[0]["before high"])


def test_lower_distances_are_better(tmp_path):
    tasks = "tasks=[cloning/grid,cloning/moons,q_gradient/peaks]"
    declaration = load_suite("toy", ["factors.variant=[residual,flow]", "seeds=3", tasks]).declaration

    def changed(run):
        far = 0.5 if run["levels"]["variant"] == "flow" else 1.0
        run["metric"] = "W2" if run["task"].startswith("cloning") else "return"
        run["dataset_sha256"] = None
        return run | {"score": far + 0.01 * run["seed"] * (1 + far), "config": {}, "episodes": 0}

    out = results_folder(tmp_path / "out", name="toy", declaration=declaration, changed=changed)
    analysis = analyse(only(out))
    verdicts = {task: found.verdict for (task, _), found in analysis.differences.items()}
    assert verdicts["cloning/grid"] == "supported: better"
    assert verdicts["q_gradient/peaks"] == "supported: worse"  # a return is better if it is higher
    (family,) = analysis.families  # returns have no common scale, distances are put in units of the typical run
    assert family.name == "W2"
    assert "optimality_gap" not in next(iter(family.aggregates.values()))
    (difference,) = family.differences.values()
    assert difference.verdict == "supported: better"
    (improvement,) = family.improvement.values()
    assert improvement.value == 1.0
    text = write_report(out).read_text()
    assert "lower is better" in text
    assert "known" in text


def test_configuration_without_result_on_a_task_is_in_no_aggregate(tmp_path):
    def keep(job):
        return not (job["task"] == TASKS[1] and job["levels"]["form"] == "noise")

    (family,) = analyse(only(results_folder(tmp_path / "out", keep=keep))).families
    assert {one.level("form") for one in family.incomplete} == {"noise"}
    assert all(one.level("form") != "noise" for one in family.aggregates)


def test_success_and_normalised_scores_share_a_scale(tmp_path):
    tasks = [TASKS[0], "pen-human-v1"]

    def changed(run):
        if run["task"] == "pen-human-v1":
            return run | {"metric": "score", "score": 100 * run["score"]}
        return run

    (family,) = analyse(only(results_folder(tmp_path / "out", tasks=tasks, changed=changed))).families
    assert family.scale == {TASKS[0]: 1.0, "pen-human-v1": 100.0}


def test_rows_that_come_to_the_same_job_share_its_result(tmp_path):
    out = results_folder(tmp_path / "out", tasks=TASKS[:1], seeds=2)
    rows = planned(out)
    first, second = (next(r for r in rows if r["levels"] == {"form": "noise", "steps": s}) for s in STEPS)
    (out / "results" / f"{second['key']}.json").unlink()
    second["key"] = first["key"]
    (out / "plan.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    analysis = analyse(only(out))
    scores = [find(analysis, TASKS[0], form="noise", steps=steps).scores[0] for steps in STEPS]
    assert scores[0] == scores[1]


# Data


def test_size_of_generated_data_is_set_against_the_official_one(out):
    facts = data_facts(only(out))[0]
    assert facts.is_smaller
    assert "100 episodes, 100,100 steps" in facts.origin
    assert "1,000 episodes, 1,001,000 steps: this is 10% of it" in facts.origin


def test_official_sizes():
    wanted = {
        "pointmaze-medium-navigate-v0": 1000,
        "pointmaze-giant-navigate-v0": 500,
        "pointmaze-giant-stitch-v0": 5000,
        "cube-double-play-v0": 1000,
        "cube-triple-noisy-v0": 3000,
        "visual-cube-quadruple-play-v0": 5000,
        "puzzle-4x4-play-v0": 1000,
        "puzzle-4x5-play-v0": 3000,
        "puzzle-4x6-noisy-v0": 5000,
    }
    assert {name: official_episodes(RECIPES[name]) for name in wanted} == wanted


# Files


def test_tables_and_figures_are_written(page):
    names = {path.name for path in page.parent.iterdir()}
    assert {"index.html", "table.md", "table.tex", "table.csv", "aggregates.csv", "costs.csv", "runs.csv"} <= names
    for figure in ("scores", "aggregates", "profile", f"quality-cost-{TASKS[0]}"):
        assert (page.parent / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (page.parent / f"{figure}.svg").read_text()


def test_names_of_files_suit_every_system(tmp_path):
    tasks = [TASKS[0], "minari:D4RL/door/human-v2"]
    write_report(results_folder(tmp_path / "out", tasks=tasks, seeds=2))
    names = [file.name for file in (tmp_path / "out" / "report").iterdir()]
    assert "quality-cost-minari-D4RL-door-human-v2.png" in names
    assert not any(set(name) & set('<>:"|?*') for name in names)


def test_same_results_give_the_same_files(out, page, tmp_path):
    again = write_report(out, tmp_path / "again").parent
    for file in page.parent.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes(), file.name


def test_page_tells_what_was_done(page, out):
    text = page.read_text()
    for told in (
        "which one learns best?",
        "offline reinforcement learning",
        "head.reformulation=noise",
        "abababababababab",
        "mean of its last 3 evaluations",
        "20,000",
        "Seeds per row: 3 to 4",
        "killed by &lt;SIGKILL&gt;",
        "A &lt;Fast&gt; CPU",
        "2 versions of the code",
        "c0ffeec0ffee with uncommitted changes",
        "FQL: 97 ± 2",
        "other budget",
        "/forms_out --generate",
        f"genpolicy train algorithm=fql task={TASKS[0]} seed=0 &#39;head.name=a b&#39;",
    ):
        assert told in text, told
    missing = [row["key"] for row in planned(out) if not keep_most(row)]
    assert all(key in text for key in missing)
    assert "<b>" not in re.sub(r"Compared with the baseline.*?</p>", "", text, flags=re.DOTALL)


def test_page_needs_nothing_else(page):
    text = page.read_text()
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', text)
    assert not re.findall(r"url\((?!#)", text)
    assert "@import" not in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_every_table_says_how_many_seeds(page):
    sections = (page.parent / "table.md").read_text().split("## ")[1:]
    assert len(sections) == 4
    assert all("eeds" in section for section in sections)


def test_csv_has_the_numbers_in_full(page):
    rows = list(csv.DictReader(io.StringIO((page.parent / "table.csv").read_text())))
    assert len(rows) == len(TASKS) * len(FORMS) * len(STEPS)
    for row in rows:
        assert float(row["mean low"]) <= float(row["mean"]) <= float(row["mean high"])
    runs = list(csv.DictReader(io.StringIO((page.parent / "runs.csv").read_text())))
    assert {run["state"] for run in runs} == {"completed", "diverged", "failed", "missing"}


def test_suite_of_suites_has_a_page_for_each(tmp_path):
    small = {"tasks": TASKS[:1], "forms": {"noise": 0.1}, "seeds": 2}
    parts = {name: declare(**small, title=f"Title of {name}") for name in ("first", "second")}
    declaration = {"title": "Both", "question": "Do `both` run?", "parts": parts}
    page = write_report(results_folder(tmp_path / "out", name="both", declaration=declaration))
    text = page.read_text()
    assert "<code>both</code>" in text
    for name in parts:
        assert f'href="{name}/index.html"' in text
        assert f"Title of {name}" in (page.parent / name / "index.html").read_text()


def test_report_of_a_suite_that_has_not_begun(tmp_path):
    text = write_report(results_folder(tmp_path / "out", keep=lambda job: False)).read_text()
    assert "nothing to conclude" in text
    assert "not run yet" in text


def test_notes_of_people_stand_below_the_conclusions(tmp_path):
    out = results_folder(tmp_path / "out", seeds=2, tasks=TASKS[:1], forms={"noise": 0.1})
    (out / "notes.txt").write_text("We saw <this>.\n\nAnd that.")
    text = write_report(out).read_text()
    assert "<p>We saw &lt;this&gt;.</p><p>And that.</p>" in text


def test_folder_without_results_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not a results folder"):
        write_report(tmp_path)


# Rendering of tables


def small_table():
    columns = (Column("name_of"), Column("score", True, ends=True))
    rows = (Row((Cell("a|b & 50% #1_x"), Cell("1.5 (1.0 to 2.0)", 1.5, (1.0, 2.0)))),)
    return Table("small", "A & B", "Seeds: 3.", columns, rows)


def test_latex_is_escaped_and_uses_booktabs():
    text = to_latex([small_table()])
    assert r"a\textbar{}b \& 50\% \#1\_x & 1.5 (1.0 to 2.0) \\" in text
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert r"\caption{A \& B. Seeds: 3.}" in text
    assert escape_latex("a~b^c\\{}$<>") == (
        r"a\textasciitilde{}b\textasciicircum{}c\textbackslash{}\{\}\$\textless{}\textgreater{}"
    )
    assert escape_latex(number(-1.25, 2).text) == "$-$1.25"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(page, tmp_path):
    body = (page.parent / "table.tex").read_text()
    head = "\\documentclass{article}\\usepackage{booktabs,longtable}\\usepackage[T1]{fontenc}"
    (tmp_path / "doc.tex").write_text(f"{head}\\begin{{document}}\n{body}\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "doc.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]


def test_markdown_keeps_bars_in_their_cells():
    assert "| a\\|b & 50% #1_x | 1.5 (1.0 to 2.0) |" in to_markdown([small_table()])


def test_csv_has_the_ends_of_an_interval_as_columns():
    assert to_csv(small_table()) == "name_of,score,score low,score high\na|b & 50% #1_x,1.5,1.0,2.0\n"


def test_zero_has_no_minus():
    assert number(-0.0004, 2).text == "0.00"


# In a browser

PROBE = """
<script>
const found = { violations: VIOLATIONS, errors: ERRORS };
const table = document.getElementById("table-scores");
const column = (title) => Array.from(table.tHead.rows[0].cells).findIndex((cell) => cell.innerText.includes(title));
const read = (index) => Array.from(table.tBodies[0].rows, (row) => row.cells[index].dataset.key);
const click = (index) => table.tHead.rows[0].cells[index].querySelector("button").click();
const shown = () => Array.from(table.tBodies[0].rows).filter((row) => row.offsetParent !== null);
found.before = read(column("success"));
click(column("success")); found.up = read(column("success"));
click(column("success")); found.down = read(column("success"));
found.sorted = table.tHead.rows[0].cells[column("success")].getAttribute("aria-sort");
click(column("difference") < 0 ? column("minus") : 0); found.withGaps = read(column("minus"));
found.all = shown().length;
const box = document.querySelector('.filters input[name="form"][value="noise"]');
box.click();
found.withoutNoise = shown().map((row) => JSON.parse(row.dataset.levels).form);
found.status = document.getElementById("status-table-scores").textContent;
document.querySelector('.filters input[name="form"]').closest("fieldset").querySelector('[value="none"]').click();
found.none = shown().length;
document.querySelector('.filters input[name="form"]').closest("fieldset").querySelector('[value="all"]').click();
found.again = shown().length;
found.filtersVisible = document.querySelector(".filters").offsetParent !== null;
found.requests = performance.getEntriesByType("resource").map((entry) => entry.name)
  .filter((name) => !name.startsWith("data:"));
found.width = [document.documentElement.scrollWidth, innerWidth];
parent.postMessage(JSON.stringify(found), "*");
</script>
"""
WATCH = """
<script>
const VIOLATIONS = [], ERRORS = [];
addEventListener("securitypolicyviolation", (event) => VIOLATIONS.push(event.blockedURI));
addEventListener("error", (event) => ERRORS.push(String(event.message)), true);
console.error = console.warn = (...words) => ERRORS.push(words.join(" "));
</script>
"""


# A window without a screen is at least 500 pixels wide; a frame in it can be as narrow as a phone.
FRAME = """<!doctype html><pre id="probe"></pre><iframe src="probed.html" width="{}" height="800" style="border:0">
</iframe><script>
addEventListener("message", (event) => {{ document.getElementById("probe").textContent = event.data; }});
</script>"""


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_page_in_a_browser(page, tmp_path, width):
    text = page.read_text().replace("<body>", f"<body>{WATCH}").replace("</body>", f"{PROBE}</body>")
    (tmp_path / "probed.html").write_text(text)
    (tmp_path / "frame.html").write_text(FRAME.format(width))
    found = browse(tmp_path / "frame.html", tmp_path)
    assert found["errors"] == []
    assert found["violations"] == []
    assert found["requests"] == []
    numbers = [float(value) for value in found["up"]]
    assert numbers == sorted(map(float, found["before"]))
    assert numbers != [float(value) for value in found["before"]]
    assert [float(value) for value in found["down"]] == numbers[::-1]
    assert found["sorted"] == "descending"
    gaps = [value == "" for value in found["withGaps"]]
    assert any(gaps)
    assert gaps == sorted(gaps)  # what has no value stands last
    assert found["all"] == len(found["before"]) == 12
    assert len(found["withoutNoise"]) == 8
    assert "noise" not in found["withoutNoise"]
    assert found["status"] == "8 of 12 rows"
    assert found["none"] == 0
    assert found["again"] == 12
    assert found["filtersVisible"]
    assert found["width"][1] == width
    assert found["width"][0] <= width  # only tables and figures scroll sideways


def browse(file, folder):
    """Open a page in Chromium without network and return what its probe wrote."""
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={folder / 'profile'}",
        "--window-size=1400,900",
        "--virtual-time-budget=2000",
        "--dump-dom",
        file.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    match = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert match, done.stderr[-2000:]
    return json.loads(html.unescape(match[1]))
