"""The questions that the notebook puts to trained models; each returns numbers or images, none of them draws."""
from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import vae_helpers as vae
import vae_measures as measure
from vae_helpers import VAE, Run, Settings


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


# ---------------------------------------------------------------------------------------------- the scale


@dataclass(frozen=True)
class Scale:
    """What needs no training on a dataset: nats per image, and the spectrum of its pixels."""

    floor: float             # entropy of the training pixels
    test_floor: float
    test_mean_image: float   # the training images' mean as the answer to every test image
    spectrum: measure.Spectrum

    @property
    def ceiling(self) -> float:
        """What the mean image leaves above the floor of the test images."""
        return self.test_mean_image - self.test_floor

    def share(self, test_loss: float) -> float:
        """How much of the way from the mean image to the floor a test loss has come."""
        return (self.test_mean_image - test_loss) / self.ceiling


def scale_of(splits: dict, top: int) -> Scale:
    """The scale of a dataset, with the `top` largest eigenvalues."""
    images, test = splits["images"].images, splits["test"].images
    return Scale(measure.entropy_floor(images), measure.entropy_floor(test),
                 measure.mean_image_loss(test, of=images), measure.spectrum(images, top))


def linear_terms(recipe: vae.Recipe, scale: Scale, test: Tensor, seed: int) -> dict[str, float]:
    """Test loss, reconstruction and KL of the best linear VAE, set in closed form and never trained."""
    linear = recipe.but(network="fc", widths=(), start="linear")
    model = vae.build(linear)
    vae.start_linear(model, scale.spectrum)
    return vae.summary(linear, vae.evaluate(model, test, seed=seed), "test_")


def extensions(wanted: list[tuple[str, int, int]], splits: dict, settings: Settings) -> list[Run]:
    """Runs of (recipe, seed, epochs; 0: its own) that are finished already, or all of them with EXTENSIONS."""
    runs = []
    for name, seed, epochs in wanted:
        recipe = vae.RECIPES[name]
        how = dict(splits, epochs=epochs or recipe.epochs, **(settings.where | {"seed": settings.seed + seed}))
        if settings.extensions or len(vae.finished_epochs(recipe, **how)) == how["epochs"]:
            runs.append(vae.train(recipe, **how, progress=vae.Progress(f"{name}, seed {seed}", log=False)))
    return runs


# What was tried for the improvement: three epochs each on the training images less the last 2,000, which decide.
TRIAL_EPOCHS, TRIAL_HELDOUT = 3, 2000
_PLAIN = vae.RECIPES["improved"].but(widths=(32, 64, 128), residual=0)
_WIDER = _PLAIN.but(widths=(64, 128, 256))
TRIALS = {
    "`conv`, one cycle, peak 2e-3": vae.RECIPES["conv"].but(schedule="onecycle", lr=2e-3),
    "32-64-128, no norm, SiLU, batches of 32, random start": _PLAIN.but(start="random"),
    "the same from the linear optimum": _PLAIN,
    "… batches of 64": _PLAIN.but(batch=64),
    "… batches of 128": _PLAIN.but(batch=128),
    "… batches of 128, peak 2e-3": _PLAIN.but(batch=128, lr=2e-3),
    "… batches of 128, linear path at a tenth of the rate": _PLAIN.but(batch=128, linear_lr=0.1),
    "64-128-256, batches of 128": _WIDER.but(batch=128),
    "64-128-256, batches of 32, peak 2e-3": _WIDER.but(lr=2e-3),
    "64-128-256, batches of 32, residual blocks: `improved`": vae.RECIPES["improved"]}


def trials(images, settings: Settings, train: bool = False) -> list[tuple[str, vae.Recipe, list[dict]]]:
    """What was changed, the recipe and the history of every finished trial, or of all of them with `train`."""
    kept, heldout = images.split_off(min(TRIAL_HELDOUT, len(images) // 5))
    how = dict(images=kept, heldout=heldout, epochs=TRIAL_EPOCHS, **settings.where)
    if train:
        for name, recipe in TRIALS.items():
            vae.train(recipe, **how, progress=vae.Progress(name))
    found = [(name, recipe, vae.finished_epochs(recipe, **how)) for name, recipe in TRIALS.items()]
    return [trial for trial in found if len(trial[2]) == TRIAL_EPOCHS]


def how_soon(run: Run, others: dict[str, Run]) -> str:
    """When a run passes the best test loss of others, and when these were there, in sentences."""
    def reached(one: Run, goal: float) -> str:
        epoch = next(h["epoch"] for h in one.history if h["test_loss"] <= goal)
        return f"in epoch {epoch}, after {epoch * pace(one.history):,.0f} s"

    found = []
    for name, other in others.items():
        goal = min(other.curve("test_loss"))
        if min(run.curve("test_loss")) > goal:
            found.append(f"{run.recipe.name} does not reach the best test loss of {name}, {goal:.1f}.")
        else:
            found.append(f"{run.recipe.name} passes the best test loss of {name}, {goal:.1f}, {reached(run, goal)}; "
                         f"{name} was there {reached(other, goal)}.")
    return " ".join(found)


def pace(history: list[dict]) -> float:
    """Seconds of the median epoch, which other work on the machine disturbs least."""
    return torch.tensor([h["seconds"] for h in history]).median().item()


def loss_with_batch_statistics(run: Run, images: Tensor, seed: int) -> float:
    """The loss of the same weights when batch normalisation takes each batch's statistics, as it does in training."""
    model = copy.deepcopy(run.model)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean = layer.running_var = None
    terms = vae.evaluate(model, images, precision=run.precision, seed=seed, batch=run.recipe.batch)
    return vae.summary(run.recipe, terms)["loss"]


@torch.no_grad()
def rate_and_distortion(model: VAE, images: Tensor, seed: int) -> tuple[float, float]:
    """KL, and squared error of decoded draws from the posterior, of uint8 images: a point in the plane of both."""
    mu, logvar = vae.encode(model, images)
    eps = torch.randn(mu.shape, generator=vae.generator("cpu", seed, "rate and distortion"))
    drawn = vae.decode(model, model.reparameterize(mu, logvar, eps))
    error = (measure.as_pixels(images) - drawn).square().flatten(1).sum(1).mean().item()
    return vae.kl_divergence(mu, logvar).sum(1).mean().item(), error


def against_linear(points: dict[str, tuple[float, float]], curve: measure.RateDistortion) -> dict[str, float]:
    """Squared error of each point (rate, squared error) as a share of the best linear VAE's at the same rate."""
    rising = curve.rate.argsort()
    linear = {name: float(np.interp(rate, curve.rate[rising], curve.distortion[rising]))
              for name, (rate, _) in points.items()}
    return {name: error / linear[name] for name, (_, error) in points.items()}


def amortisation_gap(model: VAE, images: Tensor, seed: int, steps: int = 100, precision: str = "fp32",
                     ) -> tuple[float, float]:
    """Nats that fitting mu and logvar to each of some images gains over the encoder, with the standard error."""
    recipe, device = model.recipe, next(model.parameters()).device
    x = vae.pixels(recipe, images, slice(None), device)
    draw = vae.generator(device, seed, "amortisation")
    with torch.no_grad():
        start = model.encode(x)
    mu, logvar = (t.clone().requires_grad_() for t in start)
    fresh = torch.randn(8, *mu.shape, generator=draw, device=device)

    def loss(mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
        with vae.autocast(device, precision):
            logits = model.decode(model.reparameterize(mu, logvar, eps)).float()
        return vae.reconstruction_error(recipe, logits, x) + recipe.beta * vae.kl_divergence(mu, logvar).sum(1)

    optimizer = torch.optim.Adam([mu, logvar], lr=0.05)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        eps = torch.randn(mu.shape, generator=draw, device=device)
        mu.grad, logvar.grad = torch.autograd.grad(loss(mu, logvar, eps).sum(), (mu, logvar))
        optimizer.step()
    with torch.no_grad():
        gained = torch.stack([loss(*start, eps) - loss(mu, logvar, eps) for eps in fresh]).mean(0)
    return measure.mean_and_error(gained)


def untrained(name: str, recipe: vae.Recipe, splits: dict, scale: Scale, seed: int) -> dict[str, str | int]:
    """A row of what needs no training on a dataset: its floor, and what lies above it."""
    linear = linear_terms(recipe, scale, splits["test"].images, seed)
    return {"images": name, "floor, training": f"{scale.floor:.1f}", "floor, test": f"{scale.test_floor:.1f}",
            "mean image above it": f"{scale.ceiling:.1f}",
            "linear optimum above it": f"{linear['test_loss'] - scale.test_floor:.1f}",
            "its KL": f"{linear['test_kl']:.1f}",
            "directions worth their price": measure.linear_optimum(scale.spectrum, recipe.start_sigma2).active}


# --------------------------------------------------------------------------------------- generated images


class Judge:
    """Fréchet distances to the test images, on the features of a small classifier that is trained here."""

    def __init__(self, name: str, images, test, settings: Settings):
        device = vae.choose_device(settings.device)
        bf16 = vae.choose_precision(settings.precision, device) == "bf16"
        self.name, self.size = name, len(test)
        self.net = measure.feature_net(images.images, images.labels, settings.runs, bf16=bf16, device=device,
                                       epochs=min(settings.epochs or 5, 5), seed=settings.seed)
        self.accuracy = measure.accuracy(self.net, test.images, test.labels)
        self.test = measure.gaussian_fit(measure.features(self.net, test.images))
        self.floor = self.distance(images.images[:self.size])
        self.ceiling = self.distance(measure.mean_image(images.images).view(1, *images.images.shape[1:])
                                     .float().expand(self.size, -1, -1, -1))

    def distance(self, images: Tensor) -> float:
        """Fréchet distance of these images to the test images."""
        return measure.frechet_distance(measure.features(self.net, images), self.test)

    def describe(self) -> str:
        return (f"{self.name}: the classifier is right on {100 * self.accuracy:.1f} % of the test labels. "
                f"{self.size:,} training images are **{self.floor:.3g}** from as many test images (the floor), "
                f"the mean image **{self.ceiling:.3g}** (the ceiling).")


def quality(judge: Judge, models: dict[str, VAE], train: Tensor, test: Tensor, seed: int) -> list[dict]:
    """Samples of every model beside real images: distance, neighbour correlation, sharpness; reconstructions: SSIM."""
    def row(name, images, distance, ssim=""):
        return {"images": name, judge.name: f"{distance:.3g}", "SSIM of reconstructions": ssim,
                "neighbour correlation": f"{measure.neighbour_correlation(images).mean():.3f}",
                "sharpness": f"{1e3 * measure.sharpness(images).mean():.2f}e-3"}

    rows = [row("training images", train[:judge.size], judge.floor)]
    for name, model in models.items():
        samples = vae.sample(model, judge.size, seed)
        ssim = measure.ssim(vae.reconstruct(model, test[:1000]), test[:1000]).mean()
        rows.append(row(f"samples, {name}", samples, judge.distance(samples), f"{ssim:.3f}"))
    return rows


# -------------------------------------------------------------------------------------------- latent space


def compare_gradients(gradients: measure.Gradients) -> tuple[float, float]:
    """Root mean square difference of the two means in standard errors, and the ratio of the variances."""
    a, b = gradients.pathwise.double(), gradients.score.double()
    error = ((a.var(0) + b.var(0)) / len(a)).sqrt()
    return ((a.mean(0) - b.mean(0)) / error).square().mean().sqrt().item(), (b.var(0).sum() / a.var(0).sum()).item()


def overlap_and_change(model: VAE, images: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """For pairs from near to far: -ln of the posteriors' overlap, root mean square change of the decoding."""
    mu, logvar = vae.encode(model, images)
    draw = vae.generator("cpu", seed, "pairs")
    order = torch.cdist(mu, mu).argsort(1)[:, 1:]                             # nearest first, without itself
    rank = (torch.rand(len(mu), 1, generator=draw) * torch.tensor(float(order.shape[1])).log()).exp().long() - 1
    other = order.gather(1, rank.clamp(min=0)).squeeze(1)
    distance = measure.posterior_distance(mu, logvar, mu[other], logvar[other])
    change = (vae.decode(model, mu) - vae.decode(model, mu[other])).square().mean((1, 2, 3)).sqrt()
    return distance, change


def distance_of_nearest(mu: Tensor, logvar: Tensor) -> float:
    """-ln of the overlap of a posterior with that of the nearest code: the median over codes (N, d)."""
    nearest = torch.cdist(mu, mu).fill_diagonal_(float("inf")).argmin(1)
    return measure.posterior_distance(mu, logvar, mu[nearest], logvar[nearest]).median().item()


def aggregate_posterior(mu: Tensor, logvar: Tensor) -> measure.Gaussian:
    """The Gaussian with mean and covariance of the mixture of all posteriors, (N, d) each."""
    means = measure.gaussian_fit(mu)
    return means._replace(covariance=means.covariance + logvar.double().exp().mean(0).diag())


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's."""
    ranks = torch.stack([t.argsort().argsort().double() for t in (a, b)])
    return torch.corrcoef(ranks)[0, 1].item()


def compare(a: float, b: float, name_a: str, name_b: str, error_a: float = 0.0, error_b: float = 0.0) -> str:
    """Which of two numbers is lower, as a sentence; within two standard errors neither is."""
    if abs(a - b) <= 2 * (error_a ** 2 + error_b ** 2) ** 0.5:
        return f"{name_a} and {name_b} cannot be told apart."
    return f"{name_a} is {'lower' if a < b else 'higher'} than {name_b}, by {abs(a - b):.3g}."


# -------------------------------------------------------------------------------------------- interpolation


def choose_pairs(model: VAE, images, among: int) -> dict[str, tuple[int, int]]:
    """Pairs of images chosen by rule among the first ones."""
    mu, _ = vae.encode(model, images.images[:among])
    labels = images.labels[:among]
    far = torch.cdist(mu, mu)
    same = int((labels[1:] == labels[0]).nonzero()[0]) + 1
    different = int((labels[1:] != labels[0]).nonzero()[0]) + 1
    nearest = divmod(int((far + far.max() * torch.eye(len(far))).argmin()), len(far))
    farthest = divmod(int(far.argmax()), len(far))
    return {"same class": (0, same), "different classes": (0, different), "nearest codes": nearest,
            "farthest codes": farthest}


def cross_fade(frames: Tensor) -> Tensor:
    """The pixel mixture of the first and last frame, in as many steps: (n, steps, 3, H, W)."""
    t = torch.linspace(0, 1, frames.shape[1]).view(1, -1, 1, 1, 1)
    return (1 - t) * frames[:, :1] + t * frames[:, -1:]


def paths_between(model: VAE, images: Tensor, pairs: int, way=vae.lerp) -> tuple[Tensor, Tensor]:
    """Codes (pairs, 10, d) and frames (pairs, 10, 3, H, W) between the first images and the next ones."""
    mu, _ = vae.encode(model, images[: 2 * pairs])
    half = len(mu) // 2
    codes = way(mu[:half], mu[half: 2 * half])
    return codes, vae.decode(model, codes.flatten(0, 1)).unflatten(0, codes.shape[:2])


def middle(profile: Tensor) -> float:
    """The two middle frames' mean as a share of the two ends' mean, of values (pairs, steps)."""
    steps = profile.shape[1]
    return (profile[:, [(steps - 1) // 2, steps // 2]].mean() / profile[:, [0, -1]].mean()).item()


def sharpness_along(frames: Tensor) -> Tensor:
    """Sharpness of every frame, (pairs, steps)."""
    return measure.sharpness(frames.flatten(0, 1)).view(frames.shape[:2])


def path_numbers(name: str, frames: Tensor, norms: Tensor | None) -> dict[str, str]:
    """Smoothness with its standard error, evenness, and what norm and sharpness do half-way."""
    mean, error = measure.mean_and_error(measure.smoothness(frames))
    return {"path": name, "smoothness": f"{mean:.6f}", "±": f"{error:.6f}",
            "evenness": f"{measure.evenness(frames).mean():.2f}",
            "norm half-way": percent(middle(norms)) if norms is not None else "",
            "sharpness half-way": percent(middle(sharpness_along(frames)))}


def compare_paths(models: dict[str, VAE], images: Tensor, pairs: int) -> list[dict]:
    """Straight line, great circle and cross-fade for every model, as rows of numbers."""
    rows = []
    for name, model in models.items():
        for label, way in (("straight line", vae.lerp), ("great circle", vae.slerp)):
            codes, frames = paths_between(model, images, pairs, way)
            rows.append(path_numbers(f"{name}, {label}", frames, codes.norm(dim=-1)))
        rows.append(path_numbers(f"{name}, cross-fade of its ends", cross_fade(frames), None))
    return rows


def same_or_different(model: VAE, images, pairs: int, seed: int) -> list[tuple[tuple[float, float], ...]]:
    """Mean squared step, and that over the cross-fade's, of paths within one class and between two; with errors."""
    draw = vae.generator("cpu", seed, "classes")
    a, b = (torch.randint(len(images), (40 * pairs,), generator=draw) for _ in range(2))
    equal = images.labels[a] == images.labels[b]
    result = []
    for chosen in (equal & (a != b), ~equal):
        index = torch.cat([a[chosen][:pairs], b[chosen][:pairs]])
        _, frames = paths_between(model, images.images[index], pairs)
        steps, straight = measure.smoothness(frames), measure.smoothness(cross_fade(frames))
        result.append((measure.mean_and_error(steps), measure.mean_and_error(steps / straight)))
    return result


# -------------------------------------------------------------------------------------------- regions


def by_scale(model: VAE, judge: Judge, widths: tuple[float, ...], seed: int) -> list[dict[str, float]]:
    """Fréchet distance, spread over samples and sharpness of samples whose latent scale is multiplied."""
    z = vae.prior(judge.size, model.recipe.latent, seed)
    rows = []
    for sigma in widths:
        images = vae.decode(model, sigma * z)
        rows.append({"sigma": sigma, "fd": judge.distance(images), "norm": (sigma * z).norm(dim=1).mean().item(),
                     "spread": images.std(0).mean().item(), "sharpness": measure.sharpness(images).mean().item()})
    return rows


def regions(model: VAE, mu: Tensor, dims: Tensor, seed: int) -> dict[str, Tensor]:
    """Ten draws around a code (1, d), and ten steps from -3 to 3 along each of some dimensions."""
    noise = 0.7 * vae.prior(10, mu.shape[1], seed)
    noise[0] = 0
    rows = {"one test face, and draws around its code (σ = 0.7)": vae.decode(model, mu + noise)}
    for dim in dims.tolist():
        z = mu.repeat(10, 1)
        z[:, dim] = torch.linspace(-3, 3, 10)
        rows[f"dimension {dim}, from −3 to 3"] = vae.decode(model, z)
    return rows


def attributes_of(correlation: Tensor, dims: Tensor, names: tuple[str, ...], strongest: int = 4) -> list[dict]:
    """The attributes that each of some dimensions correlates with most."""
    rows = []
    for dim in dims.tolist():
        top = correlation[dim].abs().argsort(descending=True)[:strongest]
        strongest_names = ", ".join(f"{names[k]} ({correlation[dim, k]:+.2f})" for k in top)
        rows.append({"dimension": dim, "correlates most with": strongest_names})
    return rows


def attribute_directions(codes: Tensor, images, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The mean code of images with an attribute, less that of images without, (d,), where there are both."""
    directions = {}
    for name in names:
        has = images.labels[:, images.label_names.index(name)].bool()
        if has.any() and not has.all():
            directions[name] = codes[has].mean(0) - codes[~has].mean(0)
    return directions


def along_directions(model: VAE, mu: Tensor, directions: dict[str, Tensor]) -> dict[str, Tensor]:
    """A code (1, d) moved along each direction, in ten steps from -2 to 2 times its length."""
    return {f"{name.replace('_', ' ')}, from −2 to 2 times": vae.decode(
        model, mu + torch.linspace(-2, 2, 10)[:, None] * direction) for name, direction in directions.items()}


def read_attributes(directions: dict[str, Tensor], codes: Tensor, correlation: Tensor, images) -> list[dict]:
    """How well each attribute can be told from codes (N, d): along its direction, and by the best single dimension."""
    rows = []
    for name, direction in directions.items():
        has = images.labels[:, images.label_names.index(name)]
        best = correlation[:, images.label_names.index(name)]
        dim = int(best.abs().argmax())
        alone = measure.auc(codes[:, dim] * best[dim].sign(), has)
        rows.append({"attribute": name.replace("_", " "), "share of faces": percent(has.double().mean()),
                     "AUC along its direction": f"{measure.auc(codes @ direction, has):.3f}",
                     "AUC of one dimension": f"{alone:.3f} (dimension {dim})"})
    return rows


def distances_to_training(model: VAE, judge: Judge, training: Tensor, held_out: Tensor, seed: int) -> list[dict]:
    """Mean distance to the nearest training image, in pixels and in features, of samples and of held-out images."""
    groups = {"samples": vae.sample(model, len(held_out), seed), "held-out images, reconstructed":
              vae.reconstruct(model, held_out), "held-out images": held_out}
    known = measure.features(judge.net, training)
    rows = []
    for name, images in groups.items():
        pixels = measure.mean_and_error(measure.nearest(images, training).distance)
        features = measure.mean_and_error(measure.nearest(measure.features(judge.net, images), known).distance)
        rows.append({"from": name, "in pixels": f"{pixels[0]:.2f} ± {pixels[1]:.2f}",
                     "in features": f"{features[0]:.2f} ± {features[1]:.2f}"})
    return rows


# ------------------------------------------------------------------------------------------ single claims


def shift_sensitivity(models: dict[str, VAE], images: Tensor, by: int = 2) -> dict[str, float]:
    """How far the codes move when the images shift sideways, as a share of the distance between two images' codes."""
    shares = {}
    for name, model in models.items():
        mu, _ = vae.encode(model, images)
        moved, _ = vae.encode(model, torch.cat([images[..., :1].expand(*images.shape[:3], by), images[..., :-by]], 3))
        shares[name] = ((mu - moved).norm(dim=1).mean() / (mu - mu.roll(1, 0)).norm(dim=1).mean()).item()
    return shares


def sharpness_kept(model: VAE, images: Tensor) -> float:
    """Sharpness of the reconstructions as a share of the images' own."""
    return (measure.sharpness(vae.reconstruct(model, images)).mean() / measure.sharpness(images).mean()).item()
