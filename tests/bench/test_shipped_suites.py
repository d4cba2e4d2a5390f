"""The suites of benchmarks/suites: each expands, full and in miniature, into jobs that differ and do what it says."""

import re
from collections import Counter
from functools import cache
from itertools import product
from pathlib import Path

import pytest

from genpolicy.bench.datasets import Locator
from genpolicy.bench.expansion import cells_of, evaluation_steps
from genpolicy.bench.jobs import Cell
from genpolicy.bench.suite import Suite, load_suite, suite_files
from genpolicy.config import compose, offline_steps
from genpolicy.data import get_task, list_tasks, published_scores
from genpolicy.heads.reformulations import REFORMULATIONS
from genpolicy.recipes import recipe_names
from genpolicy.registry import CRITICS, HEADS

ABLATIONS = (
    *("reformulations", "heads", "candidates", "bc_weight", "time_sampling", "backbone", "practical_parts"),
    *("critics", "extraction", "steps_vs_quality"),
)
TRAINING = (*ABLATIONS, "paper_offline", "paper_offline_to_online", "recipes", "data")
NAMES = ("toy", *TRAINING, "quick")
NOWHERE = Path("no") / "data"
PAGE = Path(__file__).parents[2] / "docs" / "ablations.md"


@cache
def suite(name: str, *, quick: bool = False) -> Suite:
    return load_suite(name, quick=quick)


@cache
def cells(name: str, *, quick: bool = False) -> list[Cell]:
    """The cells of a suite, composed and checked; where its data are does not matter."""
    if name == "toy":
        pytest.importorskip("ot", reason="the package POT is not installed: pip install 'genpolicy[toy]'")
    return [cell for part in suite(name, quick=quick).parts for cell in cells_of(part, Locator(NOWHERE, NOWHERE))]


def levels_of(name: str, factor: str) -> list[str]:
    return list(suite(name).factors[factor])


def jobs(name: str, *, quick: bool = False) -> int:
    return len(cells(name, quick=quick)) * len(suite(name, quick=quick).seeds)


def test_these_suites_are_shipped() -> None:
    assert sorted(suite_files()) == sorted(NAMES)


@pytest.mark.parametrize(("name", "quick"), product(("toy", *TRAINING), (False, True)))
def test_a_suite_expands_into_jobs_that_differ(name: str, quick: bool) -> None:
    found = cells(name, quick=quick)
    assert found
    same = [key for key, count in Counter(cell.key(0) for cell in found).items() if count > 1]
    assert not same, [cell.levels for cell in found if cell.key(0) in same]


@pytest.mark.parametrize(("name", "quick"), product(TRAINING, (False, True)))
def test_every_level_is_run_and_changes_something(name: str, quick: bool) -> None:
    one = suite(name, quick=quick)
    run = {level for cell in cells(name, quick=quick) for level in cell.levels}
    there = {(factor, level) for factor, levels in one.factors.items() for level in levels}
    assert run <= there if quick else run == there  # a miniature may name a part of the combinations
    for factor, levels in one.factors.items():
        assert len({tuple(sorted(texts)) for texts in levels.values()}) == len(levels) > 1, factor


@pytest.mark.parametrize(("name", "quick"), product(("toy", *TRAINING), (False, True)))
def test_the_baseline_is_one_of_the_cells(name: str, quick: bool) -> None:
    one = suite(name, quick=quick)
    assert one.baseline
    for task in one.task_names:
        here = [dict(cell.levels) for cell in cells(name, quick=quick) if cell.task == task]
        assert any(one.baseline.items() <= levels.items() for levels in here)


@pytest.mark.parametrize("name", NAMES)
def test_a_reader_is_told_what_is_asked(name: str) -> None:
    one = suite(name)
    assert len(one.title) < 90
    assert 30 < len(one.question.split()) < 160


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_needs_no_download(name: str) -> None:
    # Eight seeds on the tasks of one generated dataset, everything at the small preset.
    one = suite(name)
    assert len(one.seeds) == 8
    assert len(one.tasks) == 3
    assert {(get_task(task.name).dataset, task.generate) for task in one.tasks} == {
        ("pointmaze-medium-navigate-v0", 100)
    }
    assert {cell.config.trainer.steps for cell in cells(name)} == {20_000}
    assert {cell.averaged for cell in cells(name)} == {3}


# What each suite compares


def test_reformulations_are_all_there_are() -> None:
    forms = suite("reformulations").factors["form"]
    assert {compose(["algorithm=bc", *texts]).head.reformulation for texts in forms.values()} == set(  # type: ignore[attr-defined]
        REFORMULATIONS.names()
    )
    assert set(REFORMULATIONS.names()) < set(forms)
    assert jobs("reformulations") == len(forms) * 3 * 8


def test_heads_are_all_there_are_under_one_critic_and_policy() -> None:
    assert sorted(levels_of("heads", "head")) == sorted(HEADS.names())
    assert len({cell.config.critic for cell in cells("heads")}) == 1
    assert len({cell.config.policy for cell in cells("heads")}) == 1
    backbones = {cell.config.head.backbone.hidden_dims for cell in cells("heads")}  # type: ignore[attr-defined]
    assert backbones == {(128, 128, 128)}


def test_critics_are_all_that_a_meanflow_can_have() -> None:
    names = {CRITICS.find(cell.config.critic).name for cell in cells("critics") if cell.config.critic}
    assert names == set(CRITICS.names()) - {"soft_td"}
    for quick in (False, True):
        critics = [cell.config.critic for cell in cells("critics", quick=quick)]
        common = {(one.hidden_dims, one.ema_rate, one.n_step, one.layer_norm) for one in critics}  # type: ignore[union-attr]
        assert len(common) == 1


def test_rules_of_extraction_share_a_critic() -> None:
    assert len({cell.config.critic for cell in cells("extraction")}) == 1


def test_candidates_are_varied_in_the_target_and_in_acting() -> None:
    counts = (1, 2, 5, 10, 32)
    found = {
        (cell.config.critic.num_candidates, cell.config.policy.num_candidates)  # type: ignore[union-attr]
        for cell in cells("candidates")
    }
    assert found == {(n, n) for n in counts} | {(n, 1) for n in counts} | {(1, n) for n in counts}


def test_bc_weight_crosses_schedule_and_strength() -> None:
    assert levels_of("bc_weight", "schedule") == ["fixed", "cosine", "adaptive"]
    assert len(cells("bc_weight")) == 3 * len(levels_of("bc_weight", "strength")) * 3


def test_practical_parts_are_in_unless_they_are_the_one_left_out() -> None:
    def parts(cell: Cell) -> dict[str, bool]:
        head, policy, critic = cell.config.head, cell.config.policy, cell.config.critic
        return {
            "bound_loss": policy.bound_weight > 0,  # type: ignore[attr-defined]
            "target_clip": head.target_clip is not None,  # type: ignore[attr-defined]
            "adaptive_loss": head.adaptive_gamma != 1,  # type: ignore[attr-defined]
            "consistency_term": head.consistency_weight > 0,  # type: ignore[attr-defined]
            "q_normalisation": policy.normalize_q,  # type: ignore[attr-defined]
            "gradient_clip": cell.config.agent.policy_optimizer.max_grad_norm is not None,
            "policy_schedule": cell.config.agent.policy_optimizer.schedule != "constant",
            "critic_layer_norm": critic.layer_norm,  # type: ignore[union-attr]
            "best_of_n": policy.acting == "best",
        }

    for cell in cells("practical_parts"):
        level = dict(cell.levels)["without"]
        gone = [name for name, there in parts(cell).items() if not there]
        assert gone == {"nothing": [], "all_of_these": list(parts(cell))}.get(level, [level])


def test_the_number_of_steps_is_in_the_levels_name() -> None:
    for cell in cells("steps_vs_quality"):
        label, head = dict(cell.levels)["model"], cell.config.head
        names = ("flow_steps", "sampling_steps", "diffusion_steps")
        set_here = [getattr(head, name) for name in names if getattr(head, name, None) is not None]
        expected = 1 if label == "meanflow_one_time" else int(label.rpartition("_")[2])
        assert set_here[0] == expected, label


def test_the_offline_comparison_is_the_published_one() -> None:
    assert suite("paper_offline").task_names == tuple(task.name for task in list_tasks() if task.in_paper)
    assert len(suite("paper_offline").tasks) == 73
    assert jobs("paper_offline") == 73 * 8 * len(levels_of("paper_offline", "algorithm"))
    for cell in cells("paper_offline"):
        protocol = get_task(cell.task).protocol
        assert evaluation_steps(cell.config)[-cell.averaged :] == list(protocol.evaluations)
        assert cell.config.trainer.eval_episodes == protocol.episodes
    ours = {name.replace("_", "") for name in levels_of("paper_offline", "algorithm")}
    published = {score.algorithm.lower() for task in suite("paper_offline").task_names for score in offline(task)}
    assert published - ours == {"srpo"}
    assert ours < published


def offline(task: str) -> list:
    return [score for score in published_scores(task) if score.setting == "offline"]


def is_task(name: str) -> bool:
    """Whether a score is of a task, and not of an environment as a whole."""
    return name in {task.name for task in list_tasks()}


def test_the_online_comparison_is_the_published_one() -> None:
    published: dict[str, set[str]] = {}
    for score in (score for task in list_tasks() if task.in_paper for score in published_scores(task)):
        if score.setting == "after online" and is_task(score.task):
            published.setdefault(score.task, set()).add(score.algorithm.lower())
    assert set(suite("paper_offline_to_online").task_names) == set(published)
    assert len(suite("paper_offline_to_online").tasks) == 15
    ours = {name.replace("_", "") for name in levels_of("paper_offline_to_online", "algorithm")}
    assert set().union(*published.values()) - ours == {"cal-ql"}
    for cell in cells("paper_offline_to_online"):
        offline_end = 0 if dict(cell.levels)["algorithm"] == "rlpd" else 1_000_000
        assert offline_steps(cell.config) == offline_end
        assert cell.config.trainer.online_steps == 1_000_000
        assert {offline_end, offline_end + 1_000_000} - {0} <= set(evaluation_steps(cell.config))


def test_recipes_are_all_there_are() -> None:
    assert levels_of("recipes", "algorithm") == recipe_names()


def test_data_are_of_every_kind_that_is_read() -> None:
    assert {get_task(name).source for name in suite("data").task_names} == {"ogbench", "d4rl", "minari"}
    updates: dict[str, set[int]] = {}
    for cell in cells("data"):
        updates.setdefault(cell.task, set()).add(offline_steps(cell.config) + cell.config.trainer.online_steps)
    assert all(len(numbers) == 1 for numbers in updates.values())  # as many offline as offline to online
    assert any(cell.config.trainer.online_steps for cell in cells("data"))


# Everything in miniature


def test_quick_is_every_other_suite() -> None:
    assert [part.name for part in suite("quick").parts] == list(NAMES[:-1])


def test_quick_is_small() -> None:
    # 15 minutes on two cores are 1,800 seconds, and a job of this size takes about 4 of one core.
    if pytest.importorskip("ot"):
        assert sum(jobs(name, quick=True) for name in NAMES[:-1]) < 200
    for name in TRAINING:
        for task in suite(name, quick=True).tasks:
            assert (get_task(task.name).dataset, task.generate) == ("pointmaze-medium-navigate-v0", 5)
        for cell in cells(name, quick=True):
            trainer = cell.config.trainer
            assert trainer.pretrain_steps + trainer.steps + trainer.online_steps <= 200
            assert trainer.eval_episodes * len(evaluation_steps(cell.config)) <= 4
            assert trainer.checkpoint_every <= 100
            assert trainer.compile is False
            assert trainer.threads == trainer.eval_workers == 1


# docs/ablations.md


def test_the_page_counts_jobs_as_they_are() -> None:
    pytest.importorskip("ot", reason="the package POT is not installed: pip install 'genpolicy[toy]'")
    rows = re.findall(r"^\| `(\w+)` \| .* \| ([\d,]+) \|$", PAGE.read_text(), re.MULTILINE)
    told = {name: int(count.replace(",", "")) for name, count in rows}
    real = {name: jobs(name) for name in NAMES[:-1]}
    assert told == real | {"quick": sum(jobs(name, quick=True) for name in NAMES[:-1])}


@pytest.mark.parametrize("quick", [False, True])
def test_the_page_shows_a_suite_that_works(tmp_path: Path, quick: bool) -> None:
    file = tmp_path / "discount.yaml"
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    file.write_text(text)
    found = cells_of(load_suite(str(file), quick=quick), Locator(NOWHERE, NOWHERE))
    assert len(found) == 2 * 5  # two tasks, and the grid but for one cell
    assert {cell.config.preset for cell in found} == {"smoke" if quick else "small"}
