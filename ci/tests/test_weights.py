"""Weights are read from safetensors, or by torch without running code; a planted pickle never runs."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from zvl.model.weights import read_weights, write_weights


class Planted:
    """Pickles to a call that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def random_state():
    return {"a.weight": torch.randn(3, 4), "b": torch.randn(()).half(), "c": torch.randint(9, (2,))}


def same(one, other):
    return one.keys() == other.keys() and all(
        one[n].equal(v) and one[n].dtype == v.dtype for n, v in other.items()
    )


@pytest.mark.parametrize("ending", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_planted_pickle_is_refused_and_does_not_run(tmp_path, ending, zipped):
    marker = tmp_path / "planted"
    content = {"model": random_state(), "config": Planted(marker)}
    file = tmp_path / f"weights{ending}"
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"refused, it is a pickle .* can run code") as caught:
        read_weights(file)
    assert str(file) in str(caught.value) and not marker.exists()
    torch.load(file, weights_only=False)
    assert marker.exists(), "the plant must work, or this test shows nothing"


def test_a_bare_pickle_is_refused_and_does_not_run(tmp_path):
    marker, file = tmp_path / "planted", tmp_path / "weights.bin"
    file.write_bytes(pickle.dumps(Planted(marker)))
    with pytest.raises(ValueError, match=r"weights\.bin"):
        read_weights(file)
    assert not marker.exists()
    pickle.loads(file.read_bytes())
    assert marker.exists()


def test_what_lavis_and_torch_save_is_read(tmp_path):
    state = random_state()
    torch.save({"model": state, "optimizer": {"state": {}}, "epoch": 9}, tmp_path / "lavis.pth")
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"state_dict": state}, tmp_path / "wrapped.bin")
    assert all(
        same(read_weights(tmp_path / name), state) for name in ("lavis.pth", "plain.pt", "wrapped.bin")
    )


@pytest.mark.parametrize(
    "content", [[torch.ones(1)], {"model": {"w": torch.ones(1), "x": 3}}, {}, torch.ones(1)]
)
def test_a_file_without_weights_by_name_says_so(tmp_path, content):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"odd\.pth: (holds a|these entries are no tensors: x)"):
        read_weights(tmp_path / "odd.pth")


def shards(folder, ending="safetensors"):
    """Two shards with their index, as transformers writes them; returns the whole state."""
    state = random_state()
    parts = {f"one.{ending}": {"a.weight"}, f"two.{ending}": {"b", "c"}}
    for file, names in parts.items():
        write = save_file if ending == "safetensors" else torch.save
        write({name: state[name] for name in names}, folder / file)
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    name = "model.safetensors" if ending == "safetensors" else "pytorch_model.bin"
    (folder / f"{name}.index.json").write_text(json.dumps(index))
    return state


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_shards_are_read_by_their_index(tmp_path, ending):
    state = shards(tmp_path, ending)
    assert same(read_weights(tmp_path), state)


def test_shards_that_disagree_with_their_index_are_named(tmp_path):
    shards(tmp_path)
    save_file({"b": torch.ones(1)}, tmp_path / "two.safetensors")
    with pytest.raises(ValueError, match=r"two\.safetensors: holds other weights .* such as c"):
        read_weights(tmp_path)
    (tmp_path / "one.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"one\.safetensors"):
        read_weights(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    for content in ('{"weight_map": {"a": "../one.safetensors"}}', '{"weight_map": 3}', "[", "{}"):
        index.write_text(content)
        with pytest.raises(ValueError, match=r"index\.json"):
            read_weights(tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    for name in ("model.safetensors", "model.pth"):
        write_weights(random_state(), tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=name):
            read_weights(tmp_path / name)


def test_a_folder_or_file_that_is_none_says_what_is_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors.*no \.safetensors file"):
        read_weights(tmp_path)
    (tmp_path / "weights.npz").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"\.safetensors, \*\.index\.json, \.bin"):
        read_weights(tmp_path / "weights.npz")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_weights(tmp_path / "nowhere.pth")
    save_file({"x": torch.ones(2)}, tmp_path / "my.safetensors")
    assert same(read_weights(tmp_path), {"x": torch.ones(2)})  # the only one there


def test_tied_weights_are_written_and_nothing_is_overwritten(tmp_path):
    weight = torch.randn(4, 4)
    state = {"one": weight, "two": weight, "turned": weight.T}
    for name in ("x.safetensors", "x.pth"):
        write_weights(state, tmp_path / "new" / name)
        assert same(read_weights(tmp_path / "new" / name), state)
        with pytest.raises(FileExistsError, match="delete it or choose another name"):
            write_weights(state, tmp_path / "new" / name)
    with pytest.raises(ValueError, match=r"not '\.npz'"):
        write_weights(state, tmp_path / "x.npz")
    assert sorted(f.name for f in (tmp_path / "new").iterdir()) == ["x.pth", "x.safetensors"]
