"""One command line for everything beside the notebook: `python -m lab COMMAND --help`."""

import argparse
import contextlib
import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from data import DataError
from lab.files import Busy, Refused, Trouble
from lab.notebook import Lab, called
from lab.recipes import RECIPES, SPRINT_TRIALS, TRAININGS, TRIALS, Settings, Training
from lab.runs import (
    Job,
    kept_identities,
    processes,
    recipe_of,
    run_folder,
    run_hash,
    seconds_of,
)


def main(arguments: list[str] | None = None) -> int:
    """Does what the command line asks; the exit status."""
    args = parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")        # a terminal without σ shows a question mark
    if processes()[0] == 0:
        return in_sentences(lambda: args.do(args))
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return in_sentences(lambda: args.do(args))      # torchrun's other processes do not speak


def parser() -> argparse.ArgumentParser:
    """The commands, each with the function that does it."""
    top = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, do: Callable, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(do=do)
        return made

    command("run", lambda args: publish().run(),
            "execute the notebook quickly, on few images, into runs/quick/")
    command("full", lambda args: publish().full(),
            "the real run: execute the notebook in place, fill in its numbers, check it")
    made = command("train", train, "train recipes, or go on with them, without notebook")
    made.add_argument("names", nargs="+", metavar="NAME", choices=RECIPES,
                      help=f"recipes: {', '.join(RECIPES)}")
    made.add_argument("--permuted", action="store_true", help="on pixels in a random order")
    add_shard(made)
    add_settings(made, seeds="+")
    made = command("trials", trials, "train what the improvement and the sprint were chosen by")
    add_shard(made)
    add_settings(made)
    add_settings(command("list", list_runs, "show which training is finished, begun or absent, and"
                         " which folders no training wants"))
    checked = command("check", check, "say what keeps an executed notebook from being committed")
    checked.add_argument("--refresh", action="store_true",
                         help="first run anew the cells that need neither data nor training")
    command("clean", lambda args: publish().clean(publish().NOTEBOOK),
            "remove what an execution leaves behind beside the outputs")
    command("readme", readme,
            "write the numbers of the last full run into README.md and the notebook's prose")
    made = command("sample", sample, "write a sheet of samples of the shipped weights, which needs "
                   "neither data nor training")
    made.add_argument("--seed", type=int, default=0, help="decides the draws, and the class (0)")
    made.add_argument("--out", type=Path, default="samples.png", help="the PNG (%(default)s)")
    made = command("picture", picture, "show a picture of yours as the shipped model, PCA and your "
                   "finished runs see it")
    made.add_argument("photo", type=Path, help="any picture; its middle square is taken")
    made.add_argument("--faces", action="store_true", help="by the model of faces, at 64×64")
    made.add_argument("--out", type=Path, help="the PNG (PHOTO-improved.png or PHOTO-faces.png)")
    made.add_argument("--runs", default=Settings.runs, help="folder of trained models (runs)")
    made = command("what-if", what_if, "say what a latent size and a β would come to by the best "
                   "linear VAE, beside the nearest run; it needs neither data nor training")
    made.add_argument("--latent", type=int, default=128, help="dimensions of z (%(default)s)")
    made.add_argument("--beta", type=float, default=1.0, help="weight of the KL (%(default)g)")
    made.add_argument("--data", choices=("cifar", "faces"), default="cifar", help="(%(default)s)")
    made.add_argument("--reconstruction", choices=("bce", "sse"), default="bce",
                      help="cross-entropy or squared error (%(default)s)")
    made.add_argument("--sigma2", type=float, help="a Gaussian decoder of this variance instead")
    made = command("ship", ship, "write data/weights/ from finished runs on real images, and what "
                   "rounding costs")
    made.add_argument("names", nargs="*", metavar="NAME", help="recipes (all that are shipped)")
    add_settings(made)
    command("html", html, "export the notebook to one HTML file")
    command("pdf", pdf, "print that file as a PDF, with an installed browser")
    return top


OPTIONS = {     # the parameters that are options, too
    "epochs": "passes over the images; 0: the recipe's own",
    "train_limit": "images to train on; 0: all", "runs": "folder of trained models",
    "data": "real, standin, or auto: real where it lies; `train` also takes folder: all pictures in"
            " the data root",
    "data_root": "folder of the datasets", "device": "cuda, mps, cpu or auto",
    "precision": "bf16, fp32, or auto: that of a kept run, else the machine's"}


def add_settings(made: argparse.ArgumentParser, seeds: str | None = None) -> None:
    """The notebook's parameters that decide a training, as options."""
    for field, text in OPTIONS.items():
        name, default = field.removeprefix("train_").replace("_", "-"), getattr(Settings, field)
        made.add_argument(f"--{name}", type=type(default), dest=field, default=default,
                          help=f"{text} ({default})")
    made.add_argument("--seed", type=int, nargs=seeds, default=[0] if seeds else 0, help="decides "
                      "weights, order and noise" + "; of several, each is a training" * bool(seeds))


def add_shard(made: argparse.ArgumentParser) -> None:
    made.add_argument("--shard", type=shard, default="1/1", metavar="I/N",
                      help="train only the I-th of every N of this list, as one of N workers")


def shard(text: str) -> Callable[[list], list]:
    """"2/4" as what takes the second of every four of a list."""
    try:
        i, n = map(int, text.split("/"))
    except ValueError:
        i = n = 0
    if not 1 <= i <= n:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of n parts, such as 1/4")
    return lambda jobs: jobs[i - 1::n]


# ---- trainings


def lab_of(args: argparse.Namespace, seed: int) -> Lab:
    """The notebook's object, its parameters those of the command line."""
    given = {field.upper(): getattr(args, field) for field in OPTIONS}
    if args.do is train and args.data == "folder":      # nothing stands in for one's own pictures
        given["DATA"] = "real"
    return Lab(given | {"SEED": seed})


def train(args: argparse.Namespace) -> None:
    """Trains a list of recipes, from each seed."""
    if args.data == "folder" and args.data_root == Settings.data_root:
        raise Refused("--data folder wants --data-root, the folder of your pictures")
    if args.data == "folder" and args.permuted:
        raise Refused("--permuted is for the recipes' own data: leave it out, or --data folder")
    labs = {seed: lab_of(args, seed) for seed in args.seed}
    for name, seed in args.shard([(name, seed) for name in args.names for seed in args.seed]):
        own = args.data == "folder"
        train_one(labs[seed].job(RECIPES[name].but(data="folder") if own
                                 else Training(name, permuted=args.permuted)))


def train_one(job: Job) -> None:
    """Trains a job and says what came of it; what another process is training is left to it."""
    print(job.splits.train.source)
    try:
        print(job.train())
    except Busy as busy:
        print(f"left to another process: {busy}")


def trials(args: argparse.Namespace) -> None:
    lab = lab_of(args, args.seed)
    for name, recipe in args.shard(list((TRIALS | SPRINT_TRIALS).items())):
        job = lab.job(recipe)
        print(name.replace("`", ""))
        train_one(job)
        if job.history:
            print(f"held-out loss {job.history[-1]['heldout_loss']:.1f}")


def list_runs(args: argparse.Namespace) -> None:
    """Prints how far every training is that is wanted here, on the data that lie here, those of
    other epochs, seeds and of somebody's own pictures, and every other folder as an orphan."""
    lab, known, alike = lab_of(args, args.seed), set(), set()
    wanted = {called(training): training for training in TRAININGS} | TRIALS | SPRINT_TRIALS
    absent = []
    for label, training in wanted.items():
        if list(Path(args.runs).glob(f"{training.name}-*/state.pt")):
            job = lab.job(training)
            known |= {run_folder(args.runs, job.identity_in(p)) for p in ("bf16", "fp32")}
            alike |= {without_epochs_and_seed(job.identity_in(p)) for p in ("bf16", "fp32")}
            state = how_far(job)
        else:                                           # the images need not be read for it
            state = "absent"
        if state == "absent":
            absent.append(label)
        else:
            print(f"{label}: {state}")
    print_absent(absent)
    told = {run_folder(args.runs, identity): identity for identity in kept_identities(args.runs)}
    for folder in sorted(path.parent for path in Path(args.runs).glob("*/state.pt")):
        identity = told.get(folder)
        if folder in known:
            continue
        if identity and recipe_of(identity).data == "folder":
            print(f"{folder.name}: of pictures of your own")
        elif identity and without_epochs_and_seed(identity) in alike:
            epochs, seed = identity["epochs"], identity["seed"]
            print(f"{folder.name}: of {epochs} epochs and seed {seed}, for `list --epochs {epochs} "
                  f"--seed {seed}`")
        else:
            print(f"orphan: {folder} is wanted by no training of this code on these data")


def without_epochs_and_seed(identity: dict) -> str:
    """What trainings have in common that differ in nothing else."""
    return run_hash(identity | {"epochs": 0, "seed": 0})


def print_absent(labels: list[str]) -> None:
    """One paragraph: how many trainings and trials are absent, and which trainings."""
    trials = [label for label in labels if label in TRIALS | SPRINT_TRIALS]
    names = [label.replace(" ", "\N{NO-BREAK SPACE}") for label in labels if label not in trials]
    text = f"absent: {len(names)} trainings and {len(trials)} trials: {'; '.join(names)}"
    print(textwrap.fill(text.rstrip(": "), 100, break_on_hyphens=False))


def how_far(job: Job) -> str:
    """Whether a training is finished, begun or absent, and what came of it."""
    try:
        history = job.history
    except Trouble as trouble:
        return str(trouble)
    if not history:
        return "absent"
    how = "finished" if job.finished else "begun"
    last = history[-1]
    return (f"{how}, {len(history)} of {job.epochs} epochs, {seconds_of(history):,.0f} s "
            f"({last['device']}, {job.precision}), loss {last['loss']:.1f}, KL {last['kl']:.1f}, "
            f"{job.folder.name}")


# ---- the shipped weights


def sample(args: argparse.Namespace) -> None:
    from lab.visitors import sample_sheet, save_picture

    save_picture(sample_sheet(args.seed), args.out)
    print(f"{args.out}: samples of the weights in data/weights, which need no data")


def picture(args: argparse.Namespace) -> None:
    """Prints what a picture costs, and writes it beside its reconstructions."""
    from lab.visitors import own_picture, save_picture

    model = "faces" if args.faces else "improved"
    out = args.out or Path(f"{args.photo.stem}-{model}.png")    # here, not among the pictures
    seen = own_picture(args.photo, args.faces, args.runs)
    save_picture(seen.figure, out)
    for line in (*seen.said, seen.table, out):
        print(line)


def what_if(args: argparse.Namespace) -> None:
    from lab.whatif import what_if

    print(what_if(args.latent, args.beta, args.data, args.reconstruction, args.sigma2))


def ship(args: argparse.Namespace) -> None:
    from lab.shipped import NAMES, ship

    lab = lab_of(args, args.seed)
    for name in args.names or NAMES:
        print(ship(lab, name))


# ---- the notebook


def publish():
    """What works on the notebook; imported where it is asked for, since a training needs none."""
    from lab import publish

    return publish


def check(args: argparse.Namespace) -> None:
    if args.refresh:
        publish().refresh(publish().NOTEBOOK)
    publish().check(publish().NOTEBOOK)
    print(f"{publish().NOTEBOOK.name}: nothing keeps it from being committed")


def readme(args: argparse.Namespace) -> None:
    publish().readme()
    publish().fill(publish().NOTEBOOK)


def html(args: argparse.Namespace) -> None:
    from lab.export import export

    print(publish().relative(export(publish().NOTEBOOK)))


def pdf(args: argparse.Namespace) -> None:
    from lab.export import print_pdf

    print(publish().relative(print_pdf(publish().NOTEBOOK)))


def in_sentences(work: Callable[[], None]) -> int:
    """Does the work; an interruption or foreseen trouble is one sentence, and what nobody foresaw
    keeps its traceback. The exit status."""
    try:
        work()
    except KeyboardInterrupt:
        print("\nstopped; train, trials and full go on from the last finished epoch",
              file=sys.stderr)
        return 130
    except (Trouble, DataError) as error:               # each is one sentence
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
