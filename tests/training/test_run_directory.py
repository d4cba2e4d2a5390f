import errno
import json
import os
import subprocess
import sys

import pytest

from genpolicy.errors import ConfigError, StorageError
from genpolicy.training import provenance
from genpolicy.training.run_directory import RunDirectory

HOLD_LOCK = """
import fcntl, os, sys
file = open(sys.argv[1], "r+")
fcntl.flock(file, fcntl.LOCK_EX)
os.ftruncate(file.fileno(), 0)
os.write(file.fileno(), str(os.getpid()).encode())
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "run", "seed: 3\n", {"versions": {"torch": "2"}})


def steps(run, kind):
    return [json.loads(line)["step"] for line in run.log_file(kind).read_text().splitlines()]


def test_create_lays_out_the_directory(run):
    assert RunDirectory.exists(run.path)
    assert run.config_yaml == "seed: 3\n"
    assert json.loads((run.path / "provenance.json").read_text()) == {"versions": {"torch": "2"}}
    assert run.checkpoints.is_dir() and run.figures.is_dir()
    status = run.status()
    assert (status["state"], status["step"], status["pid"]) == ("running", 0, os.getpid())
    assert "error" not in status


def test_create_refuses_a_directory_with_a_run_and_leaves_it_alone(run):
    run.set_status("completed", 10)
    with pytest.raises(ConfigError, match=f"resume={run.path}.*another run_dir"):
        RunDirectory.create(run.path, "seed: 4\n", {})
    assert run.config_yaml == "seed: 3\n" and run.status()["state"] == "completed"


def test_create_after_a_kill_before_it_was_done_starts_over(run):
    (run.path / "config.yaml").unlink()  # written last, so a killed create lacks it
    assert RunDirectory.create(run.path, "seed: 5\n", {}).config_yaml == "seed: 5\n"


def test_create_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/run"):
        RunDirectory.create(tmp_path / "file" / "run", "", {})


def test_open_explains_what_is_wrong(run, tmp_path):
    assert RunDirectory.open(run.path).config_yaml == "seed: 3\n"
    with pytest.raises(ConfigError, match="does not exist"):
        RunDirectory.open(tmp_path / "absent")
    with pytest.raises(ConfigError, match=rf"Did you mean {run.path}\?"):
        RunDirectory.open(run.checkpoints)
    with pytest.raises(ConfigError, match=rf"Did you mean {run.path}\?"):
        RunDirectory.open(tmp_path)
    with pytest.raises(ConfigError, match="is a file"):
        RunDirectory.open(run.path / "config.yaml")


def test_error_in_status_is_one_line(run):
    run.set_status("failed", 7, "ValueError: first\n   second")
    status = run.status()
    assert (status["state"], status["step"], status["error"]) == ("failed", 7, "ValueError: first second")


def test_damaged_status_is_a_clear_error(run):
    (run.path / "status.json").write_text("{")
    with pytest.raises(ConfigError, match=r"status\.json cannot be read"):
        run.status()


def test_appended_lines_are_readable_at_once_and_valid_json(run):
    run.append("train", {"step": 1, "loss": float("nan"), "high": float("inf"), "low": -float("inf")})
    run.append("train", {"step": 2, "loss": 0.1})
    lines = run.log_file("train").read_text().splitlines()
    strict = [json.loads(line, parse_constant=lambda text: pytest.fail(text)) for line in lines]
    assert strict[0] == {"step": 1, "loss": "nan", "high": "inf", "low": "-inf"}
    assert strict[1] == {"step": 2, "loss": 0.1}


def test_each_line_is_one_write(run, monkeypatch):
    written, write = [], os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: written.append(bytes(data)) or write(descriptor, data))
    run.append("eval", {"step": 1})
    run.append("eval", {"step": 2})
    assert written == [b'{"step": 1}\n', b'{"step": 2}\n']


def test_append_on_a_full_disk(run):
    run.log_file("train").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"train\.jsonl.*disk is full") as caught:
        run.append("train", {"step": 1})
    assert caught.value.errno == errno.ENOSPC


def test_truncate_drops_later_and_broken_lines_and_appending_goes_on(run):
    for step in (2, 4, 6, 8):
        run.append("train", {"step": step})
        run.append("eval", {"step": step})
    with run.log_file("train").open("a") as file:
        file.write('{"step": 1')  # cut short by a kill: not step 1
    run.truncate_logs(6, eval_step=4)
    assert steps(run, "train") == [2, 4, 6] and steps(run, "eval") == [2, 4]
    run.append("train", {"step": 8})
    assert steps(run, "train") == [2, 4, 6, 8]


def test_truncate_to_the_beginning_and_without_logs(run):
    run.truncate_logs(0)
    assert not run.log_file("train").exists()
    run.append("train", {"step": 1})
    run.truncate_logs(0)
    assert run.log_file("train").read_bytes() == b""


def test_truncate_on_a_full_disk_keeps_the_logs(run, monkeypatch):
    for step in (1, 2):
        run.append("train", {"step": step})

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError):
        run.truncate_logs(1)
    monkeypatch.undo()
    assert steps(run, "train") == [1, 2]


def test_lock_keeps_another_process_out_and_names_it(run):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(run.path / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=rf"pid {process.pid}\) is training in {run.path}"), run.lock():
        pytest.fail("two processes hold the lock")
    process.kill()
    process.communicate()
    with run.lock():
        pass


def test_lock_excludes_a_second_holder_in_the_same_process_and_is_given_back(run):
    with run.lock(), pytest.raises(ConfigError, match="is training in"), RunDirectory.open(run.path).lock():
        pytest.fail("held twice")
    with run.lock():
        pass


def test_provenance_is_json_and_names_versions_data_and_hardware():
    record = json.loads(json.dumps(provenance.collect("abc")))
    assert record["dataset_sha256"] == "abc"
    assert record["versions"]["torch"].startswith("2.") and record["versions"]["python"].startswith("3.")
    assert set(record["versions"]) == {"python", *provenance.PACKAGES}
    assert record["hardware"]["memory_bytes"] > 1e8 and record["hardware"]["cores"] >= 1
    assert record["command"] == sys.argv and record["threads"] >= 1


def test_git_revision_only_of_the_checkout_that_tracks_the_file(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    tracked, ignored = tmp_path / "tracked.py", tmp_path / "venv.py"
    tracked.write_text("1")
    ignored.write_text("1")
    assert provenance.git_revision(tracked) is None
    git("init", "-q")
    git("add", "tracked.py")
    git("commit", "-q", "-m", "first")
    head = git("rev-parse", "HEAD")
    assert provenance.git_revision(tracked) == {"commit": head, "dirty": False}
    assert provenance.git_revision(ignored) is None
    tracked.write_text("2")
    assert provenance.git_revision(tracked) == {"commit": head, "dirty": True}


def test_provenance_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert provenance.collect(None)["git"] is None
