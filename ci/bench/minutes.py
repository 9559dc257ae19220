"""What the nano schedule takes: every training from nothing, with its minutes.

    python ci/bench/minutes.py --run-dir runs/minutes             # an empty folder; what is there already takes no time

Threads are torch's default, all that there are; OMP_NUM_THREADS=1 for one.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from zvl import config
from zvl.training import schedule


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run-dir", type=Path, default=Path("runs/minutes"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every number of training steps")
    asked = parser.parse_args()
    preset, run = config.nano(asked.seed).with_steps(asked.scale), asked.run_dir.absolute()
    steps = {
        "world and features": lambda: [
            schedule.read(preset, run, split) for split in ("train", "composition")
        ],
        "pre-training": lambda: schedule.pretrain(preset, run),
        "saying": lambda: schedule.say(preset, run),
        "text alone": lambda: schedule.tune_text_only(preset, run),
        "Base, stage 1": lambda: schedule.tune(preset, run, "base", 1),
        "Chat, stage 1": lambda: schedule.tune(preset, run, "chat", 1),
        "the factory's lessons": lambda: schedule.bmmic(preset, run, "train"),
        "Base, stage 2": lambda: schedule.tune(preset, run, "base", 2),
        "Chat, stage 2": lambda: schedule.tune(preset, run, "chat", 2),
    }
    minutes = {}
    for name, step in steps.items():
        started = time.perf_counter()
        step()
        minutes[name] = (time.perf_counter() - started) / 60
        print(f"{name:<24}{minutes[name]:6.1f}", flush=True)
    print(f"{'all':<24}{sum(minutes.values()):6.1f} minutes on {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
