"""Train the trials of the improvement, which the notebook shows where they are finished.

python tools/trials.py                  the real CIFAR-10 from data/, into runs/; what is finished is loaded
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import vae_experiments as ask
import vae_helpers as vae
import vae_report as report


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="trials.py", description="Train the trials of the improvement.")
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--runs", default="runs")
    args = parser.parse_args(arguments)

    def work():
        settings = vae.Settings(data_root=args.data_root, runs=args.runs)
        splits = vae.load_splits(vae.RECIPES["improved"], source="real", root=settings.data_root)
        print(report.trials_table(ask.trials(splits["images"], settings, train=True)))

    return vae.in_sentences(work)


if __name__ == "__main__":
    sys.exit(main())
