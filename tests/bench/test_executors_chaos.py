"""A suite whose runner and workers are killed again and again has the results of an undisturbed one."""

from pathlib import Path

import pytest

from tests.bench.chaos import bench_run, report_numbers, results, run_disturbed

SUITE = """
title: Chaos
question: Does killing change a result?
kind: train
tasks:
  pointmaze-medium-navigate-singletask-task5-v0: {generate: 2}
seeds: 3
base:
  - algorithm=meanflow_ql
  - preset=smoke
  - trainer.eval_workers=1
  - trainer.eval_episodes=1
  - trainer.steps=400
  - trainer.batch_size=32
  - trainer.log_every=20
  - trainer.eval_every=200
  - trainer.checkpoint_every=20
factors:
  head: {meanflow: head=meanflow, gaussian: head=gaussian}
metric: task
protocol: {evaluations: mean_of_last, count: 2}
baseline: {head: gaussian}
"""
KILLS = 20


@pytest.mark.slow
def test_killed_twenty_times_a_suite_ends_with_the_same_numbers(tmp_path: Path):
    suite = tmp_path / "chaos.yaml"
    suite.write_text(SUITE)
    arguments = [str(suite), "--workers", "2", "--generate", "--data", str(tmp_path / "data")]
    assert bench_run(tmp_path / "calm", arguments).wait() == 0
    killed = run_disturbed(tmp_path / "chaos", arguments, KILLS)
    assert killed["runner"] and killed["worker"] and killed["everything"]
    assert killed["runner"] + killed["worker"] + killed["everything"] == KILLS
    calm = results(tmp_path / "calm")
    assert len(calm) == 6
    assert results(tmp_path / "chaos") == calm
    tables = report_numbers(tmp_path / "calm")
    assert tables and report_numbers(tmp_path / "chaos") == tables
    assert not list((tmp_path / "chaos" / "failed").iterdir())
