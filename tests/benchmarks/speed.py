"""How fast training is: against a student's loop and pythae, by the product, and to a goal.

    python tests/benchmarks/speed.py                # conv and sprint against a student's loop
    python tests/benchmarks/speed.py --products     # conv, celeba64, improved: library or product
    python tests/benchmarks/speed.py --goal 1826 --seeds 0 1 2

What is compared takes turns on the same noise, so that a machine that is busy slows all alike:
trust the ratios before the seconds. A student's loop is what one writes first: pictures that become
tensors at each access, a DataLoader, the library's layers in fp32, Adam. pythae's Trainer takes
part for `conv` where it is installed. `--products` trains with the library's layers, with those of
lab/products.py, and with the library's again, which says how much of a ratio is noise. On a CPU
that has more, AVX2 alone is measured under ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
MKL_ENABLE_INSTRUCTIONS=AVX2 with `--precision fp32`.

`--goal` trains `sprint` from raw images: seconds of its spectrum and its epoch, and its test loss.
The student's are those of the recipe's epochs of `conv` at the pace of 5,000 images, or, `--whole`,
of all of them, with the test loss that came out. Evaluations count for neither. To have pythae:

    python -m pip install --no-deps pythae==0.1.2 pydantic pydantic-core annotated-types
    python -m pip install --no-deps typing-inspection cloudpickle imageio
"""

import argparse
import importlib.util
import itertools
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from data import load_splits  # noqa: E402
from lab import linear, training  # noqa: E402
from lab.products import fast  # noqa: E402
from lab.recipes import RECIPES  # noqa: E402
from vae_helpers import VAE, Recipe, build, kl_divergence, to_pixels  # noqa: E402

CONV, SPRINT = RECIPES["conv"], RECIPES["sprint"]
Turn = Callable[[], float]     # trains once on all images; gives the seconds

# ---- who trains


class Pictures(Dataset):
    """Images as torchvision gives them: a picture is made a tensor at each access."""

    def __init__(self, images: Tensor):
        self.arrays = images.permute(0, 2, 3, 1).contiguous().numpy()   # (N, H, W, 3)

    def __len__(self):
        return len(self.arrays)

    def __getitem__(self, i):
        return to_tensor(Image.fromarray(self.arrays[i]))


def student(model: VAE, images: Tensor) -> Turn:
    """An epoch as a student writes it."""
    recipe, device = model.recipe, next(model.parameters()).device
    loader = DataLoader(Pictures(images), batch_size=recipe.batch, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    error = F.binary_cross_entropy if recipe.reconstruction == "bce" else F.mse_loss

    def turn() -> float:
        begun = time.perf_counter()
        for x in loader:
            x = x.to(device)
            logits, mu, logvar = model(x, torch.randn(len(x), recipe.latent, device=device))
            total = error(to_pixels(recipe, logits), x, reduction="sum")
            loss = (total + kl_divergence(mu, logvar).sum()) / len(x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()     # as one does, to watch it
        return time.perf_counter() - begun

    return turn


def ours(model: VAE, images: Tensor, precision: str, seed: int = 0) -> Turn:
    """The epochs of the project's own training, one after the other and then the last again."""
    device, numbers = next(model.parameters()).device, itertools.count(1)
    optimizer, images = training.make_optimizer(model), training.on_device(images, device)
    how = dict(seed=seed, epochs=model.recipe.epochs, precision=precision, folder=Path("."))

    def turn() -> float:
        number = min(next(numbers), model.recipe.epochs)
        return training.train_epoch(model, optimizer, images, epoch=number,
                                    tick=lambda text: None, **how)["seconds"]

    return turn


def pythae(recipe: Recipe, images: Tensor) -> Turn:
    """pythae's Trainer on `conv`'s layers: floats in memory and no worker, which are its ways."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE as PythaeVAE
    from pythae.models import VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.layers, self.to_mu, self.to_logvar = plain.encoder, plain.to_mu, plain.to_logvar

        def forward(self, x):
            h = self.layers(x)
            return ModelOutput(embedding=self.to_mu(h), log_covariance=self.to_logvar(h))

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.layers = plain.decoder

        def forward(self, z):
            return ModelOutput(reconstruction=torch.sigmoid(self.layers(z)))

    plain = VAE(recipe)
    config = VAEConfig(input_dim=tuple(images.shape[1:]), latent_dim=recipe.latent,
                       reconstruction_loss=recipe.reconstruction)
    model = PythaeVAE(config, Encoder(), Decoder())
    data = BaseDataset(images / 255, torch.zeros(len(images)))

    def turn() -> float:
        with tempfile.TemporaryDirectory() as folder:
            how = BaseTrainerConfig(output_dir=folder, num_epochs=1, learning_rate=recipe.lr,
                                    per_device_train_batch_size=recipe.batch)
            trainer = BaseTrainer(model, data, training_config=how)
            trainer.prepare_training()
            begun = time.perf_counter()
            trainer.train_step(1)
            return time.perf_counter() - begun

    return turn


# ---- in turns


def in_turns(contenders: dict[str, Turn], turns: int) -> dict[str, list[float]]:
    """The seconds of each, by turn, after one that warms up."""
    seconds = {name: [] for name in contenders}
    for number in range(turns + 1):
        for name, turn in contenders.items():
            taken = turn()
            seconds[name] += [taken] * (number > 0)
    return seconds


def report(title: str, seconds: dict[str, list[float]], n: int) -> None:
    """Prints images/s, and how many times as fast as the first one each is, over the turns."""
    print(f"\n{title}: images/s, times as fast as {next(iter(seconds))} (each turn's, from, to)")
    first = next(iter(seconds.values()))
    for name, own in seconds.items():
        times = sorted(a / b for a, b in zip(first, own, strict=True))
        print(f"  {name:26}{n / statistics.median(own):9,.1f}{statistics.median(times):8.2f}"
              f"  ({times[0]:.2f}, {times[-1]:.2f})")


def against_others(recipe: Recipe, images: Tensor, device: torch.device, precision: str,
                   ) -> dict[str, Turn]:
    """A student's loop, pythae's where it can take part, and ours."""
    contenders = {"a student's loop": student(VAE(recipe).to(device), images)}
    if recipe == CONV and importlib.util.find_spec("pythae"):
        contenders["pythae"] = pythae(recipe, images)
    return contenders | {"here": ours(fast(build(recipe)).to(device), images, precision)}


def with_and_without(recipe: Recipe, images: Tensor, device: torch.device, precision: str,
                     ) -> dict[str, Turn]:
    """The library's layers, the product, and the library's again."""
    makers = {"library": build, "product": lambda r: fast(build(r)), "library again": build}
    return {name: ours(made(recipe).to(device), images, precision) for name, made in makers.items()}


# ---- to a goal


def sprint(train: Tensor, test: Tensor, seed: int, device: torch.device, precision: str,
           ) -> tuple[float, float]:
    """Seconds from raw images to a trained `sprint`, and its test loss."""
    begun = time.perf_counter()
    images = train[:SPRINT.images or None]
    model = training.fresh(SPRINT, device, seed)
    linear.start(model, linear.spectrum_of(SPRINT, images))
    turn = ours(model, images, precision, seed)
    for _ in range(SPRINT.epochs):
        turn()
    return time.perf_counter() - begun, loss_of(model, test)


def student_conv(train: Tensor, test: Tensor, seed: int, device: torch.device, whole: bool,
                 ) -> tuple[float, float]:
    """Seconds of a student's `conv` for all its epochs; if trained whole, its unsettled loss."""
    torch.manual_seed(seed)
    model, images = VAE(CONV).to(device), train if whole else train[:5_000]
    turn, turns = student(model, images), CONV.epochs if whole else 1
    seconds = sum(turn() for _ in range(turns)) * CONV.epochs * len(train) / turns / len(images)
    return seconds, loss_of(model, test) if whole else math.nan


def loss_of(model: VAE, images: Tensor) -> float:
    return training.summary(model.recipe, training.evaluate(model, images))["loss"]


def to_goal(args: argparse.Namespace, device: torch.device, precision: str) -> None:
    """Prints, for each seed, seconds and test losses of the student and of sprint."""
    splits = load_splits("cifar10", 32, root=args.data_root, limit=args.images)
    train, test = splits.train.images, splits.test.images
    print(f"\n{len(train):,} of: {splits.train.source}; goal {args.goal:g}\nseed: a student's "
          "seconds of conv, test loss; seconds of sprint, test loss; times sooner")
    for seed in args.seeds:
        slow, student_loss = student_conv(train, test, seed, device, args.whole)
        quick, loss = sprint(train, test, seed, device, precision)
        print(f"{seed:4}{slow:12,.1f}{student_loss:10.2f}{quick:10,.1f}{loss:10.2f}"
              f"{slow / quick:10.1f}  {'at the goal' if loss <= args.goal else 'not at the goal'}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, usage="speed.py [options]",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="RECIPE", choices=RECIPES)
    parser.add_argument("--products", action="store_true", help="with and without the product")
    parser.add_argument("--goal", type=float, help="a test loss that sprint is to reach")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of --goal")
    parser.add_argument("--whole", action="store_true", help="all epochs of the student, of --goal")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"))
    parser.add_argument("--images", type=int, default=0, help="a turn; 0: 512, or all for --goal")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    args = parser.parse_args(arguments)
    device, n = training.choose_device(), args.images or 512
    precisions = args.precision or [training.choose_precision("auto", device)]
    print(f"{training.device_name(device)}, torch {torch.__version__}")
    if args.goal:
        return to_goal(args, device, precisions[0])
    names = args.only or (["conv", "celeba64", "improved"] if args.products else ["conv", "sprint"])
    contenders = with_and_without if args.products else against_others
    for recipe, precision in itertools.product(map(RECIPES.get, names), precisions):
        images = torch.randint(0, 256, (n, 3, recipe.side, recipe.side), dtype=torch.uint8)
        seconds = in_turns(contenders(recipe, images, device, precision), args.turns)
        report(f"{recipe.name}, {precision}", seconds, n)


if __name__ == "__main__":
    main()
