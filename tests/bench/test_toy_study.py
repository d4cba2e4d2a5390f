"""The toy study end to end at a tiny size: tables, files, resuming, a user's own reformulation, refusals."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("ot", reason="the package POT is not installed: pip install 'genpolicy[toy]'")

from genpolicy import cli
from genpolicy.bench import toy as study
from genpolicy.bench import toy_runs
from genpolicy.bench.toy_report import diverged, render_tables, summarise
from genpolicy.bench.toy_runs import KnownQ, make_agent, run_job
from genpolicy.data import toy
from genpolicy.errors import ConfigError
from genpolicy.heads.reformulations import REFORMULATIONS
from genpolicy.registry import HEADS

PLUGIN = '''
from genpolicy.heads import REFORMULATIONS, Reformulation


@REFORMULATIONS.register("half_residual")
class HalfResidual(Reformulation):
    """phi = x_t / 2: the network predicts g = x_t / 2 - u."""

    def phi(self, x_t, noise, t):
        return x_t / 2

    def phi_dot(self, x_t, noise, t, velocity):
        return velocity / 2
'''


@pytest.fixture(autouse=True)
def _registries_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (REFORMULATIONS, HEADS):
        registry.names()
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy_runs, "TRANSPORT_SAMPLES", 200)
    monkeypatch.setattr(toy_runs, "COUNTED_SAMPLES", 2_000)


def tiny_suite(steps: int = 2, **quick: Any) -> dict[str, Any]:
    suite = study.load_suite(quick=True) | quick
    for part in ("cloning", "q_gradient"):
        suite[part] = suite[part] | {"steps": steps, "batch_size": 8, "measure_at": [0, 1]}
    return suite


def jobs_of(suite: dict[str, Any], *labels: str, **chosen: Any) -> list[Any]:
    return study.list_jobs(suite, study.find_variants(suite, labels), **chosen)


def test_the_study_writes_tables_results_and_figures_and_a_users_reformulation_is_in_them(tmp_path: Path) -> None:
    plugin = tmp_path / "my_reformulation.py"
    plugin.write_text(PLUGIN)
    out = tmp_path / "out"
    rows = study.run_study(out, suite=tiny_suite(), plugin=str(plugin), variants=["half_residual", "gaussian"])

    assert {(row["part"], row["problem"], row["variant"]) for row in rows} == {
        (part, problem, variant)
        for part, problem in (("cloning", "grid"), ("q_gradient", "slope"))
        for variant in ("half_residual", "gaussian")
    }
    assert "| half_residual |" in (out / "table.md").read_text()
    with (out / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    document = json.loads((out / "results.json").read_text())
    assert document["provenance"]["versions"]["torch"] == torch.__version__
    assert len(document["runs"]) == 4 and document["references"]["grid"]["true"]["modes"] == 1.0
    for name in ("clouds", "distance", "field", "q_gradient", "q_gradient_clouds"):
        assert (out / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_every_reformulation_and_head_is_a_variant_without_being_named() -> None:
    suite = tiny_suite()
    labels = [variant.label for variant in study.find_variants(suite)]
    assert set(labels) == set(REFORMULATIONS.names()) | (set(HEADS.names()) - {"meanflow"}) | set(suite["variants"])
    more = study.find_variants(tiny_suite(variants={"many_steps": ["head.time_steps=50"]}), ["many_steps"])
    assert more[0].overrides == ("head.time_steps=50",)


def test_a_head_that_a_policy_refuses_has_no_row_in_its_part() -> None:
    assert {job.part for job in jobs_of(tiny_suite(), "mixture")} == {"cloning"}
    assert {job.part for job in jobs_of(tiny_suite(), "gaussian")} == {"cloning", "q_gradient"}


@pytest.mark.parametrize("quick", [False, True])
def test_the_declaration_resolves(quick: bool) -> None:
    suite = study.load_suite(quick)
    jobs = jobs_of(suite, seeds=1)
    assert all(job.config.seed == 0 and job.config.trainer.steps > 0 for job in jobs)
    assert suite["cloning"]["densities"]["grid"]["seeds"] == (1 if quick else 5)
    assert quick or {job.density for job in jobs} == set(toy.DENSITIES)


def test_finished_runs_are_kept_and_a_changed_setting_makes_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = jobs_of(tiny_suite(), "residual", seeds=2)
    first = study.run_jobs(jobs, tmp_path, compile=False)
    files = sorted(tmp_path.iterdir())
    assert len(files) == len(jobs) == 4

    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError("a finished run was repeated")

    monkeypatch.setattr(study, "run_job", refuse)
    assert study.run_jobs(jobs, tmp_path, compile=False) == first
    with pytest.raises(AssertionError, match="repeated"):
        study.run_jobs(jobs_of(tiny_suite(steps=3), "residual"), tmp_path, compile=False)


def test_an_edited_plugin_is_another_run(tmp_path: Path) -> None:
    plugin = tmp_path / "edited_plugin.py"
    files = []
    for factor in ("2", "4"):
        plugin.write_text(PLUGIN.replace("/ 2", f"/ {factor}"))
        import linecache

        linecache.checkcache()
        study.import_plugin(str(plugin))
        files.append(jobs_of(tiny_suite(), "half_residual")[0].file(tmp_path))
    assert files[0] != files[1]


def test_a_run_is_determined_by_its_job_and_seeds_differ() -> None:
    job, other = jobs_of(tiny_suite(), "residual", densities=["moons"], seeds=2)[:2]
    assert run_job(job)["curve"] == run_job(job)["curve"] != run_job(other)["curve"]


def test_a_state_loaded_into_another_agent_of_the_variant_gives_the_same_run() -> None:
    """What lets all seeds of a variant share one compiled update."""
    first, second = jobs_of(tiny_suite(), "residual", seeds=2)[:2]
    shared = {"graph": make_agent(first)}
    run_job(first, compiled=shared, graph="graph")
    assert run_job(second, compiled=shared, graph="graph")["curve"] == run_job(second)["curve"]


def test_the_known_q_is_what_the_policy_climbs(generator: torch.Generator) -> None:
    suite = tiny_suite()
    suite["q_gradient"]["problems"]["slope"]["overrides"] = ["policy.bc_weight=0.0"]
    suite["common"] = [*suite["common"], "agent.policy_optimizer.warmup_fraction=0.0"]
    suite["q_gradient"]["steps"] = 60
    job = jobs_of(suite, "residual")[-1]
    agent = make_agent(job)
    assert isinstance(agent.critic, KnownQ)
    density = toy.get_density("grid")
    before = agent.act(torch.ones(200, 2).numpy())
    for _ in range(60):
        metrics = agent.update(density.transitions(64, generator))
    after = agent.act(torch.ones(200, 2).numpy())
    assert abs(before.mean()) < 1e-6 and after.mean() > 0.8  # from the middle of the box to the corner (1, 1)
    assert float(metrics["policy/q"]) > 0.9


@pytest.mark.slow
def test_the_default_budget_is_enough_for_the_residual_form_on_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # as many samples as in the study
    suite, density = study.load_suite(), toy.get_density("grid")
    floor, uniform = (toy_runs.reference_measures(density, law=law) for law in ("true", "uniform"))
    residual = run_job(jobs_of(suite, "residual", densities=["grid"])[0])["final"]
    assert residual["modes"] == 1.0
    assert residual["w2"] <= 1.5 * floor["w2"]
    assert residual["sharpness"] > 1.2 * uniform["sharpness"]  # by W2 the uniform law is as good at this budget
    gaussian = run_job(jobs_of(suite, "gaussian", densities=["grid"])[0])["final"]
    assert residual["w2"] < gaussian["w2"] and residual["sharpness"] > 1.3 * gaussian["sharpness"]


def result(variant: str, seed: int, **final: float | None) -> dict[str, Any]:
    point = {"step": 100, "outside": 0.1, "largest": 1.0, "modes": 1.0, "sharpness": 0.5} | final
    shared = {"part": "cloning", "problem": "grid", "density": "grid", "value": None, "bc_weight": None, "steps": 100}
    cost = {"evaluations_per_action": 1, "cpu_seconds_per_1000": 2.0}
    return shared | cost | {"variant": variant, "seed": seed, "final": point, "curve": [point]}


def test_rows_hold_mean_and_worst_seed_and_the_best_comes_first() -> None:
    runs = [result("weak", 0, w2=0.3, modes=0.5), result("weak", 1, w2=0.1, modes=1.0)]
    runs += [result("strong", 0, w2=0.1), result("strong", 1, w2=0.1), result("broken", 0, w2=None)]
    rows = summarise(runs)
    assert [row["variant"] for row in rows] == ["strong", "weak", "broken"]
    weak = rows[1]
    assert weak["w2"] == pytest.approx(0.2) and weak["w2_worst"] == 0.3
    assert weak["modes"] == 0.75 and weak["modes_worst"] == 0.5 and weak["seeds"] == 2
    laws = {
        "grid": {law: {"w2": 0.05, "w2_worst": 0.06, "modes": 1.0, "sharpness": 1.0} for law in ("true", "uniform")}
    }
    table = render_tables(rows, laws)
    assert "| weak | 0.200 | 0.300 | 4.00 | 75% | 50% |" in table
    assert "| broken | not finite |" in table


def test_a_run_has_diverged_if_its_samples_are_far_out_late_in_training() -> None:
    run = result("any", 0)
    points = [{"step": 0, "largest": 9.0}, {"step": 60, "largest": 2.0}]  # far out at the start only
    assert not diverged(run | {"curve": points})
    assert diverged(run | {"curve": [*points, {"step": 100, "largest": 5.1}]})
    assert diverged(run | {"curve": [*points, {"step": 100, "largest": None}]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants", "residul"], "'residual'"),
        (["--densities", "moon"], "'moons'"),
        (["--plugin", "no_such_file.py"], "no file no_such_file.py"),
        (["--plugin", "no_such_module"], "no_such_module"),
    ],
)
def test_a_wrong_name_on_the_command_line_is_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    answer = CliRunner().invoke(cli.app, ["toy", "--quick", "--out", str(tmp_path), *arguments])
    assert isinstance(answer.exception, ConfigError)
    assert message in str(answer.exception)
    assert not (tmp_path / "runs").exists()


def test_a_plugin_that_fails_is_named_with_its_error(tmp_path: Path) -> None:
    plugin = tmp_path / "failing_plugin.py"
    plugin.write_text("1 / 0")
    with pytest.raises(ConfigError, match=r"failing_plugin\.py.*ZeroDivisionError"):
        study.import_plugin(str(plugin))


def test_the_command_prints_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = tiny_suite()
    monkeypatch.setattr(study, "load_suite", lambda quick: suite)
    answer = CliRunner().invoke(cli.app, ["toy", "--quick", "--out", str(tmp_path), "--variants", "residual"])
    assert answer.exit_code == 0, answer.exception
    assert "cloning grid" in answer.output and "residual" in answer.output
    assert (tmp_path / "table.md").exists()
