"""An epoch of `conv` in pythae, in a student's loop and here: seconds, images/s, peak memory.

    python -m pip install --no-deps --target runs/pythae pythae==0.1.2 pydantic pydantic-core \
        annotated-types typing-inspection cloudpickle imageio
    python tests/benchmarks/against_pythae.py [--images 10000] [--goal 1826]

pythae is nobody's dependency here; it is looked for in the folder that pip filled. Version 0.1.2
runs beside torch 2.14 and numpy 1.26 with pydantic 2.14 and imageio 2.38; torch, numpy, scipy,
scikit-learn and tqdm are those that are installed already. `--no-deps` matters: with it pip leaves
out a second torch, and a backport named dataclasses that hides Python's own.

All three train the same layers on the same images with Adam at 1e-3, batches of 128, BCE and 128
latent dimensions: pythae with its BaseTrainer, floats in memory and no worker, which are its ways;
the student as in against_student.py; ours as `python -m lab train conv`. They take turns, each time
in a process of its own, so that peak memory is its own; the median of the turns counts. `--goal`
adds how long each takes to a test loss: epochs from `conv`'s own curve in RUNS, as the recipe is
the same, and what `improved` and `sprint` took when they were trained.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from against_student import Pictures, student_step  # noqa: E402
from growth import peak_bytes  # noqa: E402

from data import Splits, load_splits  # noqa: E402
from lab import training  # noqa: E402
from lab.recipes import RECIPES  # noqa: E402
from lab.runs import Job  # noqa: E402
from lab.show import Table  # noqa: E402
from vae_helpers import VAE  # noqa: E402

CONV = RECIPES["conv"]
INSTALL = ("pythae is not in {folder}: run python -m pip install --no-deps --target {folder} "
           "pythae==0.1.2 pydantic pydantic-core annotated-types typing-inspection cloudpickle "
           "imageio")

# ---- the contenders: each trains one epoch on bytes (N, 3, 32, 32); its seconds and mean loss


def pythae_epoch(images: np.ndarray) -> tuple[float, float]:
    """pythae's Trainer, end to end: floats in memory, its callbacks, the model saved at the end."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE as PythaeVAE
    from pythae.models import VAEConfig
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    class Watch(TrainingCallback):
        def on_epoch_begin(self, training_config, **more):
            self.start = time.perf_counter()

        def on_epoch_end(self, training_config, **more):
            self.seconds = time.perf_counter() - self.start

        def on_log(self, training_config, logs, **more):
            self.loss = logs["train_epoch_loss"]

    config = VAEConfig(input_dim=images.shape[1:], latent_dim=CONV.latent,
                       reconstruction_loss="bce")
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        how = BaseTrainerConfig(output_dir=folder, num_epochs=1, learning_rate=CONV.lr,
                                per_device_train_batch_size=CONV.batch,
                                train_dataloader_num_workers=0)
        data = BaseDataset(torch.from_numpy(images) / 255, torch.zeros(len(images)))
        BaseTrainer(PythaeVAE(config, *pythae_networks()), data, training_config=how,
                    callbacks=[watch]).train()
    return watch.seconds, watch.loss


def pythae_networks() -> tuple[nn.Module, nn.Module]:
    """The layers of `conv` as pythae's encoder and decoder; its decoder ends in pixels."""
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self, ours):
            super().__init__()
            self.layers, self.to_mu, self.to_logvar = ours.encoder, ours.to_mu, ours.to_logvar

        def forward(self, x):
            h = self.layers(x)
            return ModelOutput(embedding=self.to_mu(h), log_covariance=self.to_logvar(h))

    class Decoder(BaseDecoder):
        def __init__(self, ours):
            super().__init__()
            self.layers = ours.decoder

        def forward(self, z):
            return ModelOutput(reconstruction=torch.sigmoid(self.layers(z)))

    return Encoder(plain := VAE(CONV)), Decoder(plain)


def student_epoch(images: np.ndarray) -> tuple[float, float]:
    """A student's loop over pictures that are made tensors at each access."""
    pictures = Pictures(images.transpose(0, 2, 3, 1), Image.fromarray)
    loader = DataLoader(pictures, batch_size=CONV.batch, shuffle=True)
    step = student_step(CONV, training.choose_device())
    start = time.perf_counter()
    losses = [step(x) for x in loader]
    return time.perf_counter() - start, statistics.fmean(losses)


def our_epoch(images: np.ndarray) -> tuple[float, float]:
    """One epoch as the project trains it."""
    device = training.choose_device()
    model = training.fresh(CONV, device)
    record = training.train_epoch(
        model, training.make_optimizer(model),
        training.on_device(torch.from_numpy(images), device), seed=0, epoch=1, epochs=CONV.epochs,
        precision=training.choose_precision("auto", device), tick=lambda text: None,
        folder=Path("."))
    return record["seconds"], record["loss"]


EPOCHS = {"pythae 0.1.2": pythae_epoch, "a student's loop": student_epoch, "here": our_epoch}

# ---- turns


def alone(name: str, path: Path) -> dict:
    """What one epoch took in this process, which does nothing else."""
    before, images = peak_bytes(), np.load(path)
    with contextlib.redirect_stdout(sys.stderr):
        seconds, loss = EPOCHS[name](images)
    return {"seconds": seconds, "loss": loss, "peak": peak_bytes(), "before": before}


def turn(name: str, path: Path, folder: Path) -> dict:
    """The same, measured in a process of its own."""
    command = [sys.executable, __file__, "--alone", name, str(path), "--pythae", str(folder)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{run.stderr}\n{name} could not be trained")
    print(f"  {name}: {run.stdout.strip()}", file=sys.stderr)
    return json.loads(run.stdout.splitlines()[-1])


def row(name: str, turns: list[dict], ours: list[dict], n: int) -> dict:
    """One row of the table; the ratio is the median of the turns' own."""
    seconds = statistics.median(t["seconds"] for t in turns)
    ratio = statistics.median(a["seconds"] / b["seconds"] for a, b in zip(turns, ours, strict=True))
    return {"trained by": name, "seconds an epoch": seconds, "images/s": n / seconds,
            "times ours": ratio, "peak, MB": max(t["peak"] for t in turns) / 1e6,
            "above what is imported, MB": max(t["peak"] - t["before"] for t in turns) / 1e6,
            "loss in that epoch": statistics.median(t["loss"] for t in turns)}


# ---- to a goal


def kept(name: str, splits: Splits, runs: Path) -> list[dict]:
    """The epochs of a recipe's finished run on these images, [] where there is none."""
    jobs = (Job(RECIPES[name], splits, runs=runs, wanted=p) for p in ("bf16", "fp32"))
    return next((job.history for job in jobs if job.finished), [])


def reached(history: list[dict], goal: float) -> int:
    """Epochs until the test loss is at most the goal; until its best where it never is."""
    losses = [h["test_loss"] for h in history]
    first = [epoch for epoch, loss in enumerate(losses, 1) if loss <= goal]
    return first[0] if first else losses.index(min(losses)) + 1


def to_goal(goal: float, splits: Splits, runs: Path, rows: list[dict]) -> list[dict]:
    """Epochs and seconds to the goal on all images: measured paces with `conv`'s curve, then what
    ours took when they were trained."""
    found, n = [], len(splits.train)
    curves = {name: kept(name, splits, runs) for name in ("conv", "improved", "sprint")}
    for name, history in curves.items():
        if not history:
            print(f"{runs} holds no run of {name} on these images: train it with python -m lab "
                  f"train {name}")
            continue
        epochs = reached(history, goal)
        paces = [(f"conv, {r['trained by']}", n / r["images/s"]) for r in rows] * (name == "conv")
        paces.append((f"{name}, as kept", sum(h["seconds"] for h in history[:epochs]) / epochs))
        found += [{"trained": who, "epochs": epochs, "seconds an epoch": seconds,
                   "seconds to it": epochs * seconds,
                   "test loss there": history[epochs - 1]["test_loss"]} for who, seconds in paces]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=0, help="of the training set; 0: all")
    parser.add_argument("--turns", type=int, default=2, help="epochs of each")
    parser.add_argument("--goal", type=float, help="a test loss; also how long each takes to it")
    parser.add_argument("--pythae", type=Path, default=Path("runs/pythae"), metavar="FOLDER")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.path.append(str(args.pythae))  # last: what is installed already comes first
    if not importlib.util.find_spec("pythae"):
        sys.exit(INSTALL.format(folder=args.pythae))
    if args.alone:
        return print(json.dumps(alone(args.alone[0], Path(args.alone[1]))))
    splits = load_splits("cifar10", 32, root=args.data_root)
    images = splits.train.images[:args.images or None]
    print(f"{len(images):,} of: {splits.train.source}", file=sys.stderr)
    turns = {name: [] for name in EPOCHS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, images.numpy())
        for _ in range(args.turns):
            for name in EPOCHS:
                turns[name].append(turn(name, path, args.pythae))
    rows = [row(name, turns[name], turns["here"], len(images)) for name in EPOCHS]
    device = training.choose_device()
    print(f"\n{training.device_name(device)}, {training.choose_precision('auto', device)} here and "
          f"fp32 elsewhere, torch {torch.__version__}, {len(images):,} images, median of "
          f"{args.turns}\n")
    print(Table(rows, dict.fromkeys(rows[0], ",.0f") | {"times ours": ".2f"})._repr_markdown_())
    if args.goal and (found := to_goal(args.goal, splits, args.runs, rows)):
        print(f"\nTo a test loss of {args.goal:g} on all {len(splits.train):,} images, or to the "
              "best epoch of a curve that stays above it; without evaluations and PCA\n")
        print(Table(found, {"test loss there": ".1f"} | dict.fromkeys(
            ("seconds an epoch", "seconds to it"), ",.0f"))._repr_markdown_())


if __name__ == "__main__":
    main()
