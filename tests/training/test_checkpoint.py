import errno
import json
import logging
import os

import pytest
import torch

from genpolicy.errors import CheckpointError, StorageError
from genpolicy.training import checkpoint

STATE = {"step": 3, "best": None, "scores": [0.1, 1e-300], "nested": {"a": True}}


def tensors(offset=0):
    return {"weight": torch.arange(6.0).reshape(2, 3) + offset, "step": torch.tensor(offset)}


def files(directory):
    return sorted(file.name for file in directory.iterdir())


def flip_byte(file, position):
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


def test_round_trip_keeps_every_dtype_shape_and_bit(tmp_path):
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(4, 6, generator=generator)
    saved = {
        "uint8 generator": generator.get_state(),
        "int64 scalar": torch.tensor(2**62 + 1),
        "bool": torch.tensor([True, False]),
        "float64": torch.tensor([0.1, float("nan"), float("-inf")], dtype=torch.float64),
        "bfloat16": torch.tensor([1.5, 3.14159]).bfloat16(),
        "float16": torch.tensor(0.1).half(),
        "empty": torch.zeros(0, 3),
        "transposed": matrix.T,
        "strided": matrix[:, ::2],
        "expanded": torch.tensor([7.0]).expand(5),
        "shared": matrix,
        "with gradient": torch.ones(2, requires_grad=True),
    }
    path = checkpoint.save(tmp_path, "step_00000003", saved, STATE)
    loaded, state = checkpoint.load(path)
    assert state == STATE
    assert loaded.keys() == saved.keys()
    for name, tensor in saved.items():
        assert loaded[name].dtype == tensor.dtype and loaded[name].shape == tensor.shape, name
        torch.testing.assert_close(loaded[name], tensor.detach(), rtol=0, atol=0, equal_nan=True, msg=name)
    restored = torch.Generator()
    restored.set_state(loaded["uint8 generator"])
    torch.testing.assert_close(torch.randn(3, generator=restored), torch.randn(3, generator=generator))


def test_non_finite_state_values_come_back_through_float(tmp_path):
    path = checkpoint.save(tmp_path, "step_00000001", {}, {"low": float("-inf"), "none": [float("nan")]})
    json.loads(path.with_suffix(".json").read_text(), parse_constant=lambda text: pytest.fail(text))
    state = checkpoint.load(path)[1]
    assert float(state["low"]) == float("-inf") and float(state["none"][0]) != float(state["none"][0])


@pytest.mark.parametrize("suffix", ["", ".json", ".safetensors"])
def test_load_takes_either_file_or_the_common_name(tmp_path, suffix):
    path = checkpoint.save(tmp_path, "step_00000001", tensors(), STATE)
    assert checkpoint.load(path.with_name(path.name + suffix))[1] == STATE


def damage(kind, directory, name):
    tensor_file, json_file = directory / f"{name}.safetensors", directory / f"{name}.json"
    if kind == "truncated tensors":
        tensor_file.write_bytes(tensor_file.read_bytes()[:-5])
    elif kind == "flipped bit in tensors":
        flip_byte(tensor_file, -2)
    elif kind == "missing tensors":
        tensor_file.unlink()
    elif kind == "truncated json":
        json_file.write_bytes(json_file.read_bytes()[:-20])
    elif kind == "empty json":
        json_file.write_bytes(b"")
    elif kind == "json of something else":
        json_file.write_text("[1, 2]")
    elif kind == "edited state":
        json_file.write_text(json_file.read_text().replace('"step": ', '"step": 9'))
    elif kind == "tensors that are no safetensors":
        # Size and checksum fit, so only the format's own reader can refuse it.
        pickled = b"\x80\x04not a safetensors file"
        tensor_file.write_bytes(pickled)
        document = json.loads(json_file.read_text())
        document["tensors"] = {
            "sha256": checkpoint.hashlib.sha256(pickled).hexdigest(),
            "bytes": len(pickled),
        }
        document.pop("sha256")
        document["sha256"] = checkpoint._document_hash(document)
        json_file.write_text(json.dumps(document))
    else:
        raise ValueError(kind)


DAMAGES = {
    "truncated tensors": ".safetensors",
    "flipped bit in tensors": ".safetensors",
    "missing tensors": ".safetensors",
    "truncated json": ".json",
    "empty json": ".json",
    "json of something else": ".json",
    "edited state": ".json",
    "tensors that are no safetensors": ".safetensors",
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_refused_naming_the_file_and_the_way_out(tmp_path, kind):
    path = checkpoint.save(tmp_path, "step_00000007", tensors(), STATE)
    damage(kind, tmp_path, path.name)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    assert str(path) + DAMAGES[kind] in str(caught.value)
    assert "resume=" in str(caught.value)


def test_missing_checkpoint_names_those_that_exist(tmp_path):
    checkpoint.save(tmp_path, "step_00000007", tensors(), STATE)
    with pytest.raises(CheckpointError, match="step_00000007"):
        checkpoint.load(tmp_path / "step_00000008")


def test_newer_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    path = checkpoint.save(tmp_path, "step_00000001", tensors(), STATE)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format 2"):
        checkpoint.load(path)


def test_a_crash_between_the_two_files_leaves_no_checkpoint(tmp_path, monkeypatch):
    first = checkpoint.save(tmp_path, "step_00000001", tensors(1), STATE)
    replace = os.replace

    def crash_before_json(source, target):
        if str(target).endswith(".json"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", crash_before_json)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, "step_00000002", tensors(2), STATE)
    monkeypatch.undo()
    assert (tmp_path / "step_00000002.safetensors").exists()
    with pytest.raises(CheckpointError, match="incomplete"):
        checkpoint.load(tmp_path / "step_00000002")
    assert checkpoint.latest(tmp_path) == first
    checkpoint.clean(tmp_path)
    assert files(tmp_path) == ["step_00000001.json", "step_00000001.safetensors"]


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("occurrence", [1, 2])
def test_a_full_disk_raises_and_leaves_earlier_checkpoints_and_no_temporary_files(
    tmp_path, monkeypatch, call, occurrence
):
    first = checkpoint.save(tmp_path, "step_00000001", tensors(1), STATE)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    original, count = getattr(os, call), 0

    def full(*arguments, **keywords):
        nonlocal count
        count += 1
        if count >= occurrence:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*arguments, **keywords)

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageError, match="disk is full") as caught:
        checkpoint.save(tmp_path, "step_00000002", tensors(2), STATE)
    monkeypatch.undo()
    assert caught.value.errno == errno.ENOSPC and str(tmp_path / "step_00000002") in str(caught.value)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert not [name for name in files(tmp_path) if name.endswith(".tmp")]
    assert checkpoint.latest(tmp_path) == first


def test_short_writes_are_continued(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    path = checkpoint.save(tmp_path, "step_00000001", tensors(5), STATE)
    torch.testing.assert_close(checkpoint.load(path)[0], tensors(5))


def test_everything_is_flushed_before_it_gets_its_name(tmp_path, monkeypatch):
    events = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, f=original: (events.append(n), f(*a)))
    checkpoint.save(tmp_path, "step_00000001", tensors(), STATE)
    assert events == ["fsync", "replace", "fsync"] * 2  # file, rename, directory


def test_latest_passes_over_damaged_ones_with_a_warning(tmp_path, caplog):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, checkpoint.step_name(step), tensors(step), STATE)
    damage("truncated tensors", tmp_path, "step_00000003")
    damage("truncated json", tmp_path, "step_00000002")
    with caplog.at_level(logging.WARNING):
        assert checkpoint.latest(tmp_path) == tmp_path / "step_00000001"
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "step_00000003.safetensors" in caplog.text and "step_00000002.json" in caplog.text


def test_latest_orders_by_step_not_by_text(tmp_path):
    for step in (99_999_999, 100_000_000):
        checkpoint.save(tmp_path, checkpoint.step_name(step), {}, STATE)
    assert checkpoint.latest(tmp_path) == tmp_path / "step_100000000"


def test_latest_without_checkpoints_and_with_only_damaged_ones(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "absent") is None
    checkpoint.save(tmp_path, "step_00000001", tensors(), STATE)
    damage("edited state", tmp_path, "step_00000001")
    with pytest.raises(CheckpointError, match=r"None of the 1 checkpoints.*run_dir"):
        checkpoint.latest(tmp_path)


def test_prune_keeps_the_last_two_and_the_best(tmp_path):
    for step in (1, 2, 3, 4, 5):
        checkpoint.save(tmp_path, checkpoint.step_name(step), tensors(step), STATE)
    best = {"name": "step_00000002", "step": 2, "metric": "evaluation/success", "value": 0.5}
    checkpoint.set_best(tmp_path, best)
    checkpoint.prune(tmp_path)
    assert checkpoint.names(tmp_path) == ["step_00000002", "step_00000004", "step_00000005"]
    assert len(files(tmp_path)) == 7
    assert checkpoint.best(tmp_path) == best


def test_best_never_names_an_absent_checkpoint(tmp_path):
    checkpoint.save(tmp_path, "step_00000001", {}, STATE)
    checkpoint.set_best(tmp_path, {"name": "step_00000001", "step": 1, "metric": "m", "value": 1.0})
    checkpoint.set_best(tmp_path, {"name": "step_00000002", "step": 2, "metric": "m", "value": 2.0})
    assert checkpoint.best(tmp_path) is None


def test_damaged_best_pointer_says_what_to_do(tmp_path):
    (tmp_path / "best.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"best\.json is damaged.*Delete it"):
        checkpoint.best(tmp_path)


def test_clean_removes_what_a_killed_process_left(tmp_path):
    checkpoint.save(tmp_path, "step_00000001", {}, STATE)
    expected = files(tmp_path)
    (tmp_path / ".step_00000002.safetensors.123.tmp").write_bytes(b"half")
    (tmp_path / "step_00000002.safetensors").write_bytes(b"orphan")
    checkpoint.clean(tmp_path)
    assert files(tmp_path) == expected


def test_newer_damaged_checkpoints_are_set_aside_not_deleted(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, checkpoint.step_name(step), tensors(step), STATE)
    checkpoint.set_aside_newer(tmp_path, "step_00000001")
    assert checkpoint.names(tmp_path) == ["step_00000001"]
    assert files(tmp_path / "damaged") == ["step_00000002.json", "step_00000002.safetensors"]


def test_section_selects_and_strips_the_prefix():
    named = {"agent/weight": torch.ones(1), "agent/a/b": torch.ones(2), "agents/x": torch.ones(3)}
    assert checkpoint.section(named, "agent").keys() == {"weight", "a/b"}
