"""Kept features: equal to the ViT's own, found again, refused when they are of something else, and hard to lose."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import InstructBlipVisionConfig, InstructBlipVisionModel

import zvl
from zvl.data.pixels import read_image, to_pixels
from zvl.model import backbones
from zvl.training import features
from zvl.training.feature_store import FeatureError, open_features
from zvl.training.features import bytes_needed, feature_key, write_features

SHARD = 8  # pictures; batches of 3 do not divide it


def tiny_vit(seed: int = 0, **options) -> InstructBlipVisionModel:
    """5 patch vectors of 16 numbers for a picture of 8 x 8."""
    torch.manual_seed(seed)
    config = InstructBlipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4,
        initializer_range=0.2, **options,
    )  # fmt: skip
    return InstructBlipVisionModel(config).eval()


def draw(folder: Path, count: int = 21, size: tuple[int, int] = (13, 9)) -> list[str]:
    rng = np.random.default_rng()
    folder.mkdir(exist_ok=True)
    for number in range(count):
        noise = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"图{number:03d}.png")
    return [str(path) for path in sorted(folder.iterdir())]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no test here can pull the plug


@pytest.fixture(scope="module")
def vit():
    return tiny_vit()


@pytest.fixture
def images(tmp_path):
    return draw(tmp_path / "pictures")


def write(folder, images, vit, **options):
    key = options.pop("key", None) or feature_key(vit, images)
    return write_features(folder, images, vit, key, **{"shard_images": SHARD, "batch_size": 3} | options)


def seen(vit, images) -> torch.Tensor:
    """What the ViT says of each picture, as the schedule computes it."""
    pixels = to_pixels([read_image(image) for image in images], vit.config.image_size)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return vit(pixels).last_hidden_state.half()


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_what_is_read_is_what_the_vit_says_in_any_order(tmp_path, vit, images):
    written = write(tmp_path / "kept", images, vit)
    kept = open_features(tmp_path / "kept", feature_key(vit, images))
    assert (written.built, written.kept, written.quarantined) == (3, 0, 0)
    assert kept.shape == (21, 5, 16) and len(kept) == 21
    expected = seen(vit, images)
    torch.testing.assert_close(kept[:], expected, atol=2e-2, rtol=2e-2)  # other batches, other bf16 rounding
    rows = torch.randint(21, (50,))
    assert torch.equal(kept[rows], kept[:][rows]) and kept[rows].dtype == torch.float16
    assert torch.equal(kept[[20, 0]], kept[0:21:20].flip(0)) and kept[[]].shape == (0, 5, 16)
    assert (kept[[0]] - kept[[1]]).abs().max() > 0.1, "the pictures must differ for this test to say anything"


def test_nano_features_are_the_numbers_the_schedule_had(tmp_path):
    images, vit = draw(tmp_path / "pictures", 5, (96, 96)), backbones.load_clip().vision_model
    write_features(tmp_path / "kept", images, vit, key := feature_key(vit, images))
    kept = open_features(tmp_path / "kept", key)[:]
    assert kept.shape == (5, 65, backbones.WIDTH) and torch.equal(kept, seen(vit, images))


def test_a_shard_is_a_plain_safetensors_file(tmp_path, vit, images):
    write(tmp_path, images, vit)
    kept = open_features(tmp_path, feature_key(vit, images))
    assert torch.equal(load_file(tmp_path / "shard-00001.safetensors")["features"], kept[8:16])


def test_the_random_state_of_the_caller_is_left_alone(tmp_path, vit, images):
    before = torch.get_rng_state()
    write(tmp_path, images, vit)
    assert torch.equal(torch.get_rng_state(), before)


def test_sizes_are_told_in_advance_and_a_full_disk_refuses(tmp_path, vit, images, monkeypatch):
    assert bytes_needed(1) == 723_712 and round(bytes_needed(30_000_000) / 1e12, 1) == 21.7
    assert bytes_needed(21, 5, 16) == write_and_weigh(tmp_path / "kept", images, vit)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=21 * 5 * 16 * 2 - 1))
    with pytest.raises(FeatureError, match="GB are free"):
        write(tmp_path / "full", images, vit)


def write_and_weigh(folder, images, vit) -> int:
    write(folder, images, vit)
    return sum(load_file(file)["features"].nbytes for file in folder.glob("*.safetensors"))


# --- what is refused ---


def test_another_vit_is_refused_by_name(tmp_path, vit, images):
    write(tmp_path, images, vit)
    with pytest.raises(FeatureError, match=r"other features: vit is '\w+' there and '\w+' here\. "):
        open_features(tmp_path, feature_key(tiny_vit(1), images))
    with pytest.raises(FeatureError, match="vit is"):
        write(tmp_path, images, tiny_vit(1))
    same_weights = tiny_vit(0, layer_norm_eps=1e-3)
    with pytest.raises(FeatureError, match="vit is"):
        open_features(tmp_path, feature_key(same_weights, images))


def test_another_transform_is_refused_by_name(tmp_path, vit, images, monkeypatch):
    write(tmp_path, images, vit)
    for change in (
        {"to_pixels": lambda pictures, size: to_pixels(pictures, size) * 1.01},
        {"MEAN": (0.5, 0.5, 0.5)},
    ):
        with monkeypatch.context() as patched:
            patched.setattr(features, *next(iter(change.items())))
            key = feature_key(vit, images)
        with pytest.raises(FeatureError, match=r"other features: transform is 'RGB, .* here\. "):
            open_features(tmp_path, key)


def test_other_pictures_are_refused_by_name(tmp_path, vit, images):
    write(tmp_path, images, vit)
    with pytest.raises(FeatureError, match=r"other features: pictures is '\w+' there and '\w+' here\. "):
        open_features(tmp_path, feature_key(vit, images[::-1]))
    with pytest.raises(FeatureError, match=r"pictures is .* count is 21 there and 20 here"):
        open_features(tmp_path, feature_key(vit, images[:20]))
    Image.new("RGB", (9, 9), "red").save(images[7])  # the same name, another picture
    with pytest.raises(FeatureError, match="pictures is"):
        open_features(tmp_path, feature_key(vit, images))


def test_the_key_is_the_same_wherever_the_pictures_lie(tmp_path, vit, images):
    shutil.copytree(Path(images[0]).parent, tmp_path / "elsewhere")
    moved = [str(path) for path in sorted((tmp_path / "elsewhere").iterdir())]
    assert feature_key(vit, moved) == feature_key(tiny_vit(), images)
    assert feature_key(vit, moved, ids=images) != feature_key(vit, moved, ids=moved)


def test_misuse_is_named(tmp_path, vit, images):
    key = feature_key(vit, images)
    with pytest.raises(ValueError, match="20 images, but the key is of 21"):
        write(tmp_path, images[:20], vit, key=key)
    with pytest.raises(ValueError, match="training mode"):
        write(tmp_path, images, tiny_vit().train(), key=key)
    with pytest.raises(FeatureError, match=r"manifest\.json: missing"):
        open_features(tmp_path, key)
    write(tmp_path, images, vit)
    with pytest.raises(FeatureError, match="shards of 8 pictures, not of 4"):
        write(tmp_path, images, vit, shard_images=4)
    kept = open_features(tmp_path, key)
    for rows, error in (
        ([21], IndexError),
        ([-1], IndexError),
        (torch.ones(21).bool(), TypeError),
        (3, TypeError),
    ):
        with pytest.raises(error):
            kept[rows]


# --- damage ---


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "record", "foreign"])
def test_a_damaged_shard_is_named_and_made_anew(tmp_path, vit, images, damage):
    key = feature_key(vit, images)
    write(tmp_path / "kept", images, vit)
    before = content(tmp_path / "kept")
    shard = tmp_path / "kept" / "shard-00001.safetensors"
    if damage == "flip":
        data = bytearray(shard.read_bytes())
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        shard.write_bytes(data)
    elif damage == "cut":
        os.truncate(shard, shard.stat().st_size - 1)
    elif damage == "gone":
        shard.unlink()
    elif damage == "record":
        shard.with_suffix(".json").write_text('{"key": 3}')
    else:
        write(tmp_path / "other", images, tiny_vit(1))
        for suffix in (".safetensors", ".json"):
            shutil.copy((tmp_path / "other" / shard.name).with_suffix(suffix), shard.with_suffix(suffix))
    with pytest.raises(FeatureError, match=r"shard-00001\.\w+: ") as refused:
        open_features(tmp_path / "kept", key)
    assert "shard-00000" not in str(refused.value) and "write_features" in str(refused.value)
    written = write(tmp_path / "kept", images, vit)
    assert (written.built, written.kept, len(written.damaged)) == (1, 2, 1)
    assert "shard-00001" in written.damaged[0] and content(tmp_path / "kept") == before


def test_a_file_cut_off_while_open_raises(tmp_path, vit, images):
    write(tmp_path, images, vit)
    kept = open_features(tmp_path, feature_key(vit, images))
    os.truncate(tmp_path / "shard-00002.safetensors", 200)
    with pytest.raises(FeatureError, match=r"shard-00002\.safetensors: cut off"):
        kept[[20]]


def test_bad_pictures_cost_only_themselves(tmp_path, vit, images):
    good = seen(vit, images)
    Path(images[4]).write_bytes(b"no picture")
    Path(images[9]).unlink()
    written = write(tmp_path / "kept", images, vit)
    kept = open_features(tmp_path / "kept", feature_key(vit, images))
    assert written.quarantined == 2 and sorted(kept.quarantine) == [4, 9]
    assert kept.quarantine[4][0] == images[4] and "Pillow" in kept.quarantine[4][1]
    assert "FileNotFoundError" in kept.quarantine[9][1]
    with pytest.raises(KeyError, match=r"row 4 .*图004\.png.* has no features: no picture that Pillow"):
        kept[[1, 4]]
    rest = [row for row in range(21) if row not in (4, 9)]
    torch.testing.assert_close(kept[rest], good[rest], atol=2e-2, rtol=2e-2)
    assert write(tmp_path / "kept", images, vit).built == 0


def test_features_beyond_half_precision_are_put_aside(tmp_path, images):
    vit = tiny_vit()
    with torch.no_grad():
        vit.post_layernorm.weight *= 1e5
    assert write(tmp_path, images, vit).quarantined == 21
    kept = open_features(tmp_path, feature_key(vit, images))
    with pytest.raises(KeyError, match="not finite, or over 65504"):
        kept[[0]]


# --- kills, workers, several processes ---


class Killed(BaseException):
    pass


def test_a_stop_at_any_commit_costs_nothing(tmp_path, vit, images, monkeypatch):
    """Stopped before each rename and each flush in turn, and written on: byte for byte the undisturbed folder."""
    write(tmp_path / "whole", images := images[:12], vit)
    whole, stops = content(tmp_path / "whole"), 0
    for name, module in (("replace", os), ("_flush", features), ("save_file", features)):
        original, fatal = getattr(module, name), 0
        while True:
            fatal, calls = fatal + 1, 0

            def counted(*arguments, original=original, fatal=fatal):
                nonlocal calls
                calls += 1
                if calls == fatal:
                    raise Killed
                return original(*arguments)

            folder = tmp_path / f"{name}-{fatal}"
            monkeypatch.setattr(module, name, counted)
            try:
                write(folder, images, vit)
                break
            except Killed:
                stops += 1
            finally:
                monkeypatch.setattr(module, name, original)
            write(folder, images, vit)
            assert {n: c for n, c in content(folder).items() if not n.startswith(".writing-")} == whole
            open_features(folder, feature_key(vit, images))
    assert stops == 5 + 10 + 2


CHILD = """
import sys
sys.path[:0] = {path!r}
import test_features as t
import torch
torch.set_num_threads(1)
t.write({folder!r}, sorted(map(str, t.Path({pictures!r}).iterdir())), t.tiny_vit(), shard_images=2, batch_size=2)
"""


@pytest.mark.slow
def test_a_killed_process_is_written_on_byte_for_byte(tmp_path):
    images, vit = draw(tmp_path / "pictures", 80), tiny_vit()
    write(tmp_path / "whole", images, vit, shard_images=2, batch_size=2)
    folder = tmp_path / "kept"
    path = [str(Path(zvl.__file__).parents[1]), str(Path(__file__).parent)]
    script = CHILD.format(path=path, folder=str(folder), pictures=str(tmp_path / "pictures"))
    for _ in range(2):
        before = len(list(folder.glob("shard-*.json")))
        child = subprocess.Popen([sys.executable, "-c", script])
        until = before + random.randint(2, 12)
        while len(list(folder.glob("shard-*.json"))) < until and child.poll() is None:
            time.sleep(0.0005)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL, "the child finished before it was killed"
        with pytest.raises(FeatureError, match="missing"):
            open_features(folder, feature_key(vit, images))
    done = len(list(folder.glob("shard-*.json")))
    written = write(folder, images, vit, shard_images=2, batch_size=2)
    assert written.kept == done and written.built == 40 - done and not written.damaged
    kept = {name: data for name, data in content(folder).items() if not name.startswith(".writing-")}
    assert kept == content(tmp_path / "whole")


def test_processes_that_share_the_shards_make_the_same_folder(tmp_path, vit, images):
    write(tmp_path / "whole", images, vit)
    assert [write(tmp_path / "kept", images, vit, part=(n, 2)).built for n in (1, 0)] == [1, 2]
    assert content(tmp_path / "kept") == content(tmp_path / "whole")


def test_workers_decode_and_readers_share(tmp_path, vit, images):
    write(tmp_path / "whole", images, vit)
    write(tmp_path / "kept", images, vit, workers=2)
    assert content(tmp_path / "kept") == content(tmp_path / "whole")
    kept = open_features(tmp_path / "kept", feature_key(vit, images))
    loader = DataLoader(range(21), batch_size=5, num_workers=2, collate_fn=kept.__getitem__)
    assert torch.equal(torch.cat(list(loader)), kept[:])


def test_pictures_may_come_from_a_tar(tmp_path, vit, images):
    with tarfile.open(tmp_path / "pictures.tar", "w") as tar:
        for image in images:
            tar.add(image, Path(image).name)
    names = [Path(image).name for image in images]

    def read(name: str) -> bytes:
        with tarfile.open(tmp_path / "pictures.tar") as tar:
            return tar.extractfile(name).read()

    key = feature_key(vit, names, read=read)
    assert key == feature_key(vit, images)
    write(tmp_path / "kept", names, vit, key=key, read=read)
    write(tmp_path / "whole", images, vit)
    assert content(tmp_path / "kept") == content(tmp_path / "whole")


def test_a_vit_held_in_bfloat16_is_kept_without_loss(tmp_path, images):
    vit = tiny_vit().bfloat16()
    write(tmp_path, images, vit, batch_size=8)
    pixels = to_pixels([read_image(image) for image in images[:8]], 8).bfloat16()
    with torch.no_grad():
        assert torch.equal(
            open_features(tmp_path, feature_key(vit, images))[:8].bfloat16(), vit(pixels).last_hidden_state
        )


@pytest.mark.slow
def test_a_compiled_vit_gives_the_same_features(tmp_path, vit, images, monkeypatch):
    """The graph is captured as on a GPU; its kernels are not generated, which takes a CPU minutes."""
    calls = []
    monkeypatch.setattr(
        torch,
        "compile",
        lambda model, compile=torch.compile, **options: (
            calls.append(options) or compile(model, backend="eager", **options)
        ),
    )
    write(tmp_path / "plain", images, vit)
    assert not calls, "on a CPU compiling does not pay"
    write(tmp_path / "compiled", images, vit, compile=True)
    assert calls == [{"dynamic": False}]
    assert content(tmp_path / "plain") == content(tmp_path / "compiled")
