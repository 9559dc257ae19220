"""Q-Former pre-training without a notebook, for `accelerate launch -m zvl.training.pretrain`: one process or many.

It calls what notebook 03 calls and leaves the result in the same run folder, where the notebook finds it.
"""

import argparse
import sys
from collections.abc import Sequence

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from zvl import config, results
from zvl.training import schedule


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and print the last row of the history. Exit code 2, with one line, for a request that cannot be met."""
    parser = argparse.ArgumentParser(prog="zvl.training.pretrain", description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="nano", choices=config.PRESETS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run-dir", help="where results go; runs/<preset> by default")
    parser.add_argument("--steps", type=int, default=0, help="training steps; 0 for the preset's")
    parser.add_argument(
        "--batch-size", type=int, default=0, help="pairs in a micro-batch; 0 for the preset's"
    )
    parser.add_argument(
        "--accumulation", type=int, default=0, help="micro-batches a step, shared by the processes"
    )
    parser.add_argument("--weights", default="", help="of the ViT: shipped, random, or a checkpoint's folder")
    parser.add_argument("--data", default="", help="training pairs: moji, or a folder of shards")
    parser.add_argument(
        "--start", default="", help="of the Q-Former: nothing, or a folder with BERT or BLIP-2"
    )
    parser.add_argument("--tokenizer", default="", help="of the Q-Former: nano, or a folder")
    parser.add_argument("--features", default="", help="of the ViT: live in every step, or kept on disk")
    given = parser.parse_args(arguments)
    # Without this word accelerate takes each of several processes on a CPU for a single one.
    PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())
    run = results.run_folder(given.run_dir or f"runs/{given.preset}")
    try:
        preset = config.preset(given.preset, given.seed).with_run(
            given.steps, given.batch_size, given.accumulation, given.weights, given.data, given.start,
            given.tokenizer, given.features,
        )  # fmt: skip
        _, history = schedule.pretrain(preset, run)
    except (ValueError, FileNotFoundError) as error:
        print(f"zvl.training.pretrain: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if PartialState().is_main_process:
        print(", ".join(f"{name} {value:.4g}" for name, value in history[-1].items()))
        print(f"Trained in {run / 'stages'}")
    PartialState().destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
