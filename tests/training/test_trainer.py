import errno
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch

from genpolicy.errors import CheckpointError, ConfigError, NonFiniteError, StorageError
from genpolicy.training import checkpoint
from genpolicy.training import trainer as trainer_module
from genpolicy.training.run_directory import RunDirectory


class Recorder:
    """A progress reporter that can do something after a given update."""

    def __init__(self, after=None):
        self.after, self.updates, self.episodes = after or {}, [], []

    def update(self, step, total, metrics):
        self.updates.append((step, total, dict(metrics)))
        if step in self.after:
            self.after.pop(step)()

    def evaluation(self, done, total):
        self.episodes.append((done, total))


def send(*numbers):
    return lambda: [os.kill(os.getpid(), number) for number in numbers]


def status(path):
    return RunDirectory.open(path).status()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def reference(tmp_path, trainer_on, fakes):
    """The outcome of a run of the default configuration that nothing disturbed."""
    trainer_on(tmp_path / "reference").run()
    return fakes["outcome"](tmp_path / "reference")


def test_a_run_logs_evaluates_and_checkpoints_at_its_intervals(path, trainer_on, fakes):
    progress, evaluator = Recorder(), fakes["FakeEvaluator"]()
    result = trainer_on(path, progress=progress, evaluator=evaluator).run()
    assert (result.state, result.step, result.updates) == ("completed", 20, 20)
    assert [line["step"] for line in fakes["read_log"](path, "train")] == list(range(2, 21, 2))
    assert evaluator.steps == [line["step"] for line in fakes["read_log"](path, "eval")] == [5, 10, 15, 20]
    assert checkpoint.names(path / "checkpoints")[-2:] == ["step_00000016", "step_00000020"]
    assert [step for step, _, _ in progress.updates] == list(range(21))
    assert {total for _, total, _ in progress.updates} == {20}
    assert progress.updates[5][2].keys() == progress.updates[4][2].keys() and progress.updates[5][2]
    assert progress.episodes == [(2, 2)] * 4
    final = status(path)
    assert (final["state"], final["step"]) == ("completed", 20)


def test_log_lines_hold_losses_validation_and_wall_clock(path, trainer_on):
    trainer_on(path).run()
    line = json.loads((path / "train.jsonl").read_text().splitlines()[0])
    assert line.keys() == {
        "step", "phase", "policy/loss", "policy/weight_norm", "validation/policy/loss",
        "time/updates_per_second", "time/seconds", "time/evaluation_share",
    }  # fmt: skip
    assert line["time/updates_per_second"] > 0 and line["time/seconds"] > 0


def test_the_share_of_evaluations_is_that_of_all_sessions(path, trainer_on, fakes):
    config = fakes["FakeConfig"](steps=4, eval_every=1)
    slow = fakes["FakeEvaluator"](during=lambda *_: time.sleep(0.05))
    first = trainer_on(path, config, evaluator=slow).run()
    lines = [json.loads(line) for line in (path / "eval.jsonl").read_text().splitlines()]
    assert first.evaluation_seconds == sum(line["evaluation/seconds"] for line in lines)
    assert 0.6 < first.evaluation_seconds < first.seconds  # four evaluations of three steps
    again = trainer_on(path, config).resume()
    assert again.evaluation_seconds == first.evaluation_seconds and again.seconds > 0.6


def test_the_rate_leaves_out_evaluations(path, trainer_on, fakes):
    evaluator = fakes["FakeEvaluator"](during=lambda *_: time.sleep(0.05))
    trainer_on(path, fakes["FakeConfig"](steps=4, eval_every=1), evaluator=evaluator).run()
    last = json.loads((path / "train.jsonl").read_text().splitlines()[-1])
    assert last["time/updates_per_second"] > 20  # 7 if the evaluations' 0.15 s counted
    assert last["time/seconds"] > 0.45


def test_pretraining_counts_as_updates(path, trainer_on, fakes):
    config = fakes["FakeConfig"](steps=6, pretrain_steps=4)
    assert trainer_on(path, config).run().step == 10


def test_the_last_step_is_logged_evaluated_and_saved_off_the_intervals(path, trainer_on, fakes):
    config = fakes["FakeConfig"](steps=7, log_every=4, eval_every=4, checkpoint_every=4)
    trainer_on(path, config).run()
    assert [line["step"] for line in fakes["read_log"](path, "train")] == [4, 7]
    assert [line["step"] for line in fakes["read_log"](path, "eval")] == [4, 7]
    assert checkpoint.names(path / "checkpoints")[-1] == "step_00000007"


def test_zero_turns_an_interval_off_but_a_final_checkpoint_is_written(path, trainer_on, fakes):
    config = fakes["FakeConfig"](steps=7, log_every=0, eval_every=0, checkpoint_every=0)
    result = trainer_on(path, config).run()
    assert not (path / "train.jsonl").exists() and not (path / "eval.jsonl").exists()
    assert checkpoint.names(path / "checkpoints") == ["step_00000007"]
    assert result.last_eval is None and result.best is None


def test_best_and_last_two_are_kept_and_the_first_of_equals_is_best(path, trainer_on, fakes):
    scores = {3: 0.2, 6: 0.9, 9: 0.9, 12: float("nan"), 15: 0.4}
    config = fakes["FakeConfig"](steps=15, eval_every=3, checkpoint_every=4)
    result = trainer_on(path, config, evaluator=fakes["FakeEvaluator"](scores)).run()
    # 6 is no multiple of 4: a new best is saved whatever the interval.
    assert checkpoint.names(path / "checkpoints") == ["step_00000006", "step_00000012", "step_00000015"]
    expected = {"name": "step_00000006", "step": 6, "metric": "evaluation/success", "value": 0.9}
    assert checkpoint.best(path / "checkpoints") == result.best == expected
    assert result.last_eval is not None and result.last_eval["evaluation/success"] == 0.4


def test_a_checkpoint_knows_the_evaluation_of_its_own_step(path, trainer_on, fakes):
    config = fakes["FakeConfig"](steps=4, eval_every=4, checkpoint_every=4)
    trainer_on(path, config, evaluator=fakes["FakeEvaluator"]({4: 0.5})).run()
    state = checkpoint.load(path / "checkpoints" / "step_00000004")[1]
    assert (state["step"], state["total_steps"], state["evaluated"]) == (4, 4, 4)
    assert state["best"]["value"] == state["last_eval"]["evaluation/success"] == 0.5


def test_logs_are_flushed_to_the_disk_before_a_checkpoint(path, trainer_on, fakes, monkeypatch):
    flushed, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(os.fstat(file).st_ino) or fsync(file))
    trainer_on(path, fakes["FakeConfig"](steps=4, eval_every=4, checkpoint_every=4)).run()
    state = (path / "checkpoints" / "step_00000004.json").stat().st_ino
    for kind in ("train", "eval"):
        assert flushed.index((path / f"{kind}.jsonl").stat().st_ino) < flushed.index(state)


def test_a_metric_that_the_evaluation_lacks_is_reported_with_those_it_has(path, trainer_on, caplog):
    with caplog.at_level(logging.WARNING):
        result = trainer_on(path, metric="evaluation/return").run()
    assert result.best is None and "evaluation/return" in caplog.text and "evaluation/success" in caplog.text


def test_evaluating_and_logging_more_often_does_not_change_training(tmp_path, trainer_on, fakes):
    weights = []
    for number, (log_every, eval_every) in enumerate([(0, 0), (1, 1)]):
        config = fakes["FakeConfig"](log_every=log_every, eval_every=eval_every)
        run = trainer_on(tmp_path / str(number), config)
        run.run()
        weights.append(run.agent.weight)
    assert torch.equal(*weights)


# Interruptions


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 5, 7, 8, 20])
def test_a_signal_stops_after_the_update_and_resuming_gives_the_same_run(
    path, trainer_on, fakes, reference, number, step
):
    handler = signal.getsignal(number)
    result = trainer_on(path, progress=Recorder({step: send(number)})).run()
    assert (result.state, result.step) == ("interrupted", step)
    assert (status(path)["state"], status(path)["step"]) == ("interrupted", step)
    assert checkpoint.load(path / "checkpoints" / checkpoint.step_name(step))[1]["step"] == step
    assert signal.getsignal(number) is handler
    result = trainer_on(path).resume()
    assert (result.state, result.step, result.updates) == ("completed", 20, 20 - step)
    assert fakes["outcome"](path) == reference


def test_a_signal_during_an_evaluation_cuts_it_short_and_resuming_begins_with_it(path, trainer_on, fakes, reference):
    def interrupt(step, simulator_step):
        if (step, simulator_step) == (10, 1):
            os.kill(os.getpid(), signal.SIGINT)

    assert trainer_on(path, evaluator=fakes["FakeEvaluator"](during=interrupt)).run().state == "interrupted"
    assert [line["step"] for line in fakes["read_log"](path, "eval")] == [5]
    evaluator = fakes["FakeEvaluator"]()
    trainer_on(path, evaluator=evaluator).resume()
    assert evaluator.steps == [10, 15, 20]
    assert fakes["outcome"](path) == reference


def test_a_kill_after_the_repeated_evaluation_does_not_log_it_twice(path, trainer_on, fakes, reference):
    trainer_on(path, progress=Recorder({10: send(signal.SIGINT)})).run()  # saved before its evaluation
    run = RunDirectory.open(path)
    run.append("eval", {"step": 10, "evaluation/success": 0.0})  # as a session killed right after it would leave
    run.close()
    trainer_on(path).resume()
    assert fakes["outcome"](path) == reference


def test_a_second_signal_raises_at_once(path, trainer_on):
    trainer = trainer_on(path, progress=Recorder({3: send(signal.SIGINT, signal.SIGINT)}))
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert status(path)["state"] == "interrupted"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_outside_the_main_thread_no_handlers_are_installed(path, trainer_on):
    states = []
    thread = threading.Thread(target=lambda: states.append(trainer_on(path).run().state))
    thread.start()
    thread.join()
    assert states == ["completed"]


def test_resuming_a_completed_run_returns_at_once(path, trainer_on, fakes, reference):
    first = trainer_on(path).run()
    evaluator = fakes["FakeEvaluator"]()
    result = trainer_on(path, evaluator=evaluator).resume()
    assert (result.state, result.step, result.updates) == ("completed", 20, 0)
    assert (result.best, result.last_eval) == (first.best, first.last_eval)
    assert evaluator.steps == [] and fakes["outcome"](path) == reference


def test_resuming_without_a_checkpoint_starts_from_the_beginning_with_empty_logs(path, trainer_on, fakes, reference):
    run = RunDirectory.create(path, "seed: 0\n", {})
    run.append("train", {"step": 2, "stale": 1.0})
    run.close()
    (path / "checkpoints" / ".step_00000004.json.1.tmp").write_bytes(b"half")
    assert trainer_on(path).resume().updates == 20
    assert fakes["outcome"](path) == reference


def test_resuming_from_an_older_checkpoint_when_the_newest_is_damaged(path, trainer_on, fakes, reference, caplog):
    trainer_on(path, progress=Recorder({18: send(signal.SIGINT)})).run()
    newest = path / "checkpoints" / "step_00000018.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert trainer_on(path).resume().updates == 4
    assert "step_00000018" in caplog.text
    outcome = fakes["outcome"](path)
    assert outcome.pop("files") == sorted([*reference.pop("files"), "damaged"])
    assert outcome == reference


def test_resuming_with_only_damaged_checkpoints_touches_nothing(path, trainer_on):
    trainer_on(path).run()
    for file in (path / "checkpoints").glob("*.safetensors"):
        file.write_bytes(b"")
    before = (path / "train.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match="None of the"):
        trainer_on(path).resume()
    assert (path / "train.jsonl").read_bytes() == before and status(path)["state"] == "completed"


def test_resuming_with_another_configuration_is_refused(path, trainer_on):
    trainer_on(path, validation=None).run()
    with pytest.raises(CheckpointError, match=r"lacks the state of the validation.*config\.yaml"):
        trainer_on(path).resume()


def test_resuming_with_another_torch_warns(path, trainer_on, monkeypatch, caplog):
    monkeypatch.setattr("genpolicy.training.provenance.version", lambda package: "1.0")
    trainer_on(path).run()
    monkeypatch.undo()
    trainer_on(path).resume()
    assert "torch 1.0" in caplog.text and "threads" not in caplog.text


def test_running_in_a_directory_with_checkpoints_is_refused(path, trainer_on):
    trainer_on(path).run()
    with pytest.raises(ConfigError, match="resume="):
        trainer_on(path).run()
    assert status(path)["state"] == "completed"


def test_a_used_agent_cannot_begin_a_run(path, trainer_on, fakes):
    agent = fakes["FakeAgent"]()
    agent.update(fakes["FakeSampler"]().sample())
    with pytest.raises(ConfigError, match="1 updates already"):
        trainer_on(path, agent=agent).run()


def test_two_trainers_in_one_directory(path, trainer_on):
    errors = []

    def second():
        with pytest.raises(ConfigError) as caught:
            trainer_on(path).resume()
        errors.append(str(caught.value))

    assert trainer_on(path, progress=Recorder({3: second})).run().state == "completed"
    assert len(errors) == 1 and f"pid {os.getpid()}) is training in {path}" in errors[0]


# Failures


def test_a_nan_loss_stops_the_run_at_its_step_and_nothing_is_saved_after_it(path, trainer_on, fakes):
    with pytest.raises(NonFiniteError, match=r"step 9: policy/loss = nan.*learning rate"):
        trainer_on(path, agent=fakes["FakeAgent"](nan_loss_at=9)).run()
    assert checkpoint.names(path / "checkpoints")[-1] == "step_00000008"
    failed = status(path)
    assert (failed["state"], failed["step"]) == ("failed", 9)
    assert failed["error"].startswith("NonFiniteError: Training stopped at step 9")


def test_nan_weights_are_never_saved(path, trainer_on, fakes):
    with pytest.raises(NonFiniteError, match="step 8: NaN in agent/weight"):
        trainer_on(path, agent=fakes["FakeAgent"](nan_weight_at=8)).run()
    assert checkpoint.names(path / "checkpoints")[-1] == "step_00000005"


def test_on_a_gpu_losses_are_read_only_when_something_is_due(path, trainer_on, fakes, monkeypatch):
    checked = []
    monkeypatch.setattr(trainer_module, "on_cpu", lambda metrics: False)
    monkeypatch.setattr(trainer_module, "check_losses", lambda step, metrics: checked.append(step))
    trainer_on(path, fakes["FakeConfig"](steps=12, log_every=6, eval_every=5, checkpoint_every=4)).run()
    assert checked == [4, 5, 6, 8, 10, 12]


def test_a_non_finite_metric_that_is_no_loss_is_logged_and_training_goes_on(path, trainer_on, fakes):
    class Agent(fakes["FakeAgent"]):
        def update(self, batch):
            return super().update(batch) | {"policy/ratio": torch.tensor(float("inf"))}

    trainer_on(path, agent=Agent()).run()
    assert fakes["read_log"](path, "train")[0]["policy/ratio"] == "inf"


def test_a_failing_evaluation_fails_the_run_but_keeps_its_updates(path, trainer_on, fakes, reference):
    def crash(step, simulator_step):
        if step == 10:
            raise RuntimeError("the simulator\ncrashed")

    with pytest.raises(RuntimeError, match="crashed"):
        trainer_on(path, evaluator=fakes["FakeEvaluator"](during=crash)).run()
    failed = status(path)
    assert (failed["state"], failed["error"]) == ("failed", "RuntimeError: the simulator crashed")
    assert trainer_on(path).resume().updates == 10
    assert fakes["outcome"](path) == reference


def test_a_full_disk_ends_the_run_with_one_clear_error_and_freeing_space_mends_it(
    path, trainer_on, fakes, reference, monkeypatch, caplog
):
    write = os.write

    def full(descriptor, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    progress = Recorder({11: lambda: monkeypatch.setattr(os, "write", full)})
    with pytest.raises(StorageError, match="disk is full"):
        trainer_on(path, progress=progress).run()
    assert "status could not be written" in caplog.text
    monkeypatch.setattr(os, "write", write)
    trainer_on(path).resume()
    assert fakes["outcome"](path) == reference


# Kills


def drive(arguments, timeout):
    process = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "kill_driver.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(process.stdout)


@pytest.fixture
def quick_disk(tmp_path):
    """A directory in memory where there is one, since these tests flush thousands of times."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Path(directory)


def test_a_kill_at_any_file_operation_leaves_a_run_that_resumes_to_the_same_end(quick_disk):
    result = drive(["points", quick_disk], timeout=120)
    assert result["points"] > 30
    assert [line["step"] for line in result["reference"]["train"]] == [3, 6]
    assert result["different"] == []


def check_loop(result, kills):
    steps = 150 * kills
    assert sum(result["killed"].values()) == kills
    assert [line["step"] for line in result["final"]["train"]] == list(range(5, steps + 1, 5))
    assert [line["step"] for line in result["final"]["eval"]] == list(range(50, steps + 1, 50))
    assert result["final"] == result["reference"]


def test_a_run_killed_four_times_ends_bit_identical(quick_disk):
    check_loop(drive(["loop", quick_disk, 4], timeout=120), 4)


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_bit_identical(tmp_path):
    check_loop(drive(["loop", tmp_path, 20], timeout=300), 20)
