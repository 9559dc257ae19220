"""Checkpoints: complete or absent, damage is named, nothing is executed."""

import json
import os
from pathlib import Path

import pytest
import torch

from zvl.training import checkpoint
from zvl.training.checkpoint import CheckpointError


def save(folder, step, keep=2):
    tensors = {
        "model": {"w": torch.full((3, 4), float(step)), "half": torch.ones(2, dtype=torch.bfloat16) * step},
        "optimizer": {"step.w": torch.tensor(float(step))},
    }
    return checkpoint.save(folder, step, tensors, {"history": [{"step": step, "loss": 0.1 + step}]}, keep)


def test_what_is_saved_comes_back_bit_exact(tmp_path):
    shared = torch.randn(4, 4)
    tensors = {"model": {"rows": shared, "same": shared, "view": shared[:, 1], "scalar": torch.tensor(0.07)}}
    records = {"history": [{"loss": 0.1 + 0.2}], "text": "中文"}
    path = checkpoint.save(tmp_path, 3, tensors, records)
    found = checkpoint.load(path)
    assert (found.step, found.path, found.records) == (3, path, records)
    for name, value in tensors["model"].items():
        assert torch.equal(found.tensors["model"][name], value)


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.load_latest(tmp_path) is None
    assert checkpoint.load_latest(tmp_path / "absent") is None


def test_only_the_newest_are_kept(tmp_path):
    for step in (5, 10, 15, 20):
        save(tmp_path, step)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000015", "step-00000020"]


@pytest.mark.parametrize("moment", ["writing", "renaming"])
def test_death_while_writing_leaves_the_previous_checkpoint(tmp_path, monkeypatch, moment):
    save(tmp_path, 5)

    def die(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "writing":
            patch.setattr(checkpoint, "sha256", die)
        else:
            patch.setattr(Path, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 10)
    assert checkpoint.load_latest(tmp_path).step == 5
    save(tmp_path, 10)
    assert checkpoint.load_latest(tmp_path).step == 10
    assert not list(tmp_path.glob(".writing-*"))


def test_older_checkpoints_go_only_after_the_new_one_is_in_place(tmp_path, monkeypatch):
    save(tmp_path, 5, keep=1)
    removed = []
    rmtree = checkpoint.shutil.rmtree

    def watch(path):
        removed.append(path.name)
        assert checkpoint.load(tmp_path / "step-00000010").step == 10
        rmtree(path)

    monkeypatch.setattr(checkpoint.shutil, "rmtree", watch)
    save(tmp_path, 10, keep=1)
    assert removed == ["step-00000005"]


def flip_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


DAMAGE = {
    "flipped bit in the weights": ("model.safetensors", flip_bit),
    "flipped bit in the moments": ("optimizer.safetensors", flip_bit),
    "truncated": ("optimizer.safetensors", lambda f: os.truncate(f, f.stat().st_size // 2)),
    "zeroed": ("records.json", lambda f: f.write_bytes(bytes(f.stat().st_size))),
    "missing": ("model.safetensors", Path.unlink),
    "manifest missing": ("manifest.json", Path.unlink),
    "manifest cut": ("manifest.json", lambda f: os.truncate(f, 20)),
    "manifest of another kind": ("manifest.json", lambda f: f.write_text("[]")),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_newest_checkpoint_is_named_and_the_previous_one_used(tmp_path, kind):
    save(tmp_path, 5)
    newest = save(tmp_path, 10)
    name, damage = DAMAGE[kind]
    damage(newest / name)
    with pytest.warns(UserWarning, match=rf"step-00000010.{name}"):
        found = checkpoint.load_latest(tmp_path)
    assert found.step == 5
    assert found.tensors["model"]["w"][0, 0] == 5
    save(tmp_path, 10)  # the resumed training reaches this step again
    assert checkpoint.load_latest(tmp_path).step == 10


def test_nothing_usable_is_an_error_and_never_a_silent_restart(tmp_path):
    flip_bit(save(tmp_path, 5) / "model.safetensors")
    with (
        pytest.warns(UserWarning),
        pytest.raises(CheckpointError, match=r"every checkpoint is damaged.*model\.safetensors"),
    ):
        checkpoint.load_latest(tmp_path)


def test_a_renamed_checkpoint_is_refused(tmp_path):
    path = save(tmp_path, 5).rename(tmp_path / "step-00000050")
    with pytest.raises(CheckpointError, match="step 5 does not match"):
        checkpoint.load(path)


def test_a_manifest_cannot_point_outside_its_folder(tmp_path):
    path = save(tmp_path, 5)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["../outside.safetensors"] = manifest["files"]["model.safetensors"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="not a plain file name"):
        checkpoint.load(path)


def test_files_are_safetensors_and_json_alone(tmp_path):
    assert {file.suffix for file in save(tmp_path, 5).iterdir()} == {".safetensors", ".json"}


def test_wrong_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="keep must be at least 1"):
        save(tmp_path, 1, keep=0)
    with pytest.raises(ValueError, match=r"tensor group '\.\./model'"):
        checkpoint.save(tmp_path, 1, {"../model": {}}, {})
    with pytest.raises(ValueError, match="JSON"):
        checkpoint.save(tmp_path, 1, {}, {"loss": float("nan")})
