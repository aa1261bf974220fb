"""Exercises: what a reader writes beside what is known. The usual slips are named."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence

from lab.chapters.scale import scale
from lab.linear import linear_optimum
from lab.notebook import Lab
from lab.training import generator

# ---- comparing


def compare(given, right, slips: dict[str, object], near: float = 1e-3) -> str:
    """Whether an answer is right, within a share of it, or which of the `slips` it is. Tensors of
    any kind do, arrays and numbers: only values count."""
    if given is None:
        return "not answered yet"
    given, right = values(given), values(right)
    if given.numel() != right.numel():
        return (f"Not yet: the shape of what comes back is {tuple(given.shape)}, "
                f"and {tuple(right.shape)} is asked for")
    for told, value in {"right": right, **slips}.items():
        if torch.allclose(given.flatten(), values(value).flatten(), rtol=near, atol=1e-5):
            return told if told == "right" else f"Not yet: {told}"
    return "Not yet, and not in a way that is known here: does the hint help?"


def values(answer) -> Tensor:
    """The numbers of an answer."""
    return torch.as_tensor(answer).detach().double().cpu()


# ---- what the answers are tried on


def posteriors() -> tuple[Tensor, Tensor, Tensor]:
    """mu, logvar and noise (4, 3) of four images, every logvar above 0."""
    draw = generator("cpu", 0, "exercises")
    mu, eps = torch.randn(2, 4, 3, generator=draw)
    return mu, 0.3 + 1.2 * torch.rand(4, 3, generator=draw), eps


def from_prior(mu: Tensor, sigma: Tensor) -> Tensor:
    """The KL of N(mu, sigma²) from N(0, 1) in every dimension, as torch knows it."""
    return kl_divergence(Normal(mu, sigma), Normal(0.0, 1.0))


# ---- the exercises in their order


def check_kl(kl: Callable) -> None:
    """Says whether kl(mu, logvar) is the KL of every posterior from N(0, I), (B,)."""
    mu, logvar, _ = posteriors()
    right = from_prior(mu, (logvar / 2).exp())                      # (4, 3)
    print(compare(kl(mu, logvar), right.sum(1), {
        "that is the mean over the dimensions, and a code pays for each of them": right.mean(1),
        "that is twice as much, as if a ½ were missing": 2 * right.sum(1),
        "its sign is wrong: no KL is below 0": -right.sum(1),
        "logvar is taken for σ, and it is the logarithm of σ²": from_prior(mu, logvar).sum(1),
        "logvar is taken for σ², and it is its logarithm": from_prior(mu, logvar.sqrt()).sum(1),
        "exp(logvar) is taken for σ, and it is σ²": from_prior(mu, logvar.exp()).sum(1)}))


def check_reparameterize(reparameterize: Callable) -> None:
    """Says whether z = reparameterize(mu, logvar, eps) is drawn so that gradients reach both."""
    mu, logvar, eps = posteriors()
    sigma = (logvar / 2).exp()
    inputs = mu.requires_grad_(), logvar.requires_grad_()
    z, again = (reparameterize(*inputs, eps) for _ in range(2))
    told = compare(z, mu + sigma * eps, {
        "logvar is taken for σ, and it is the logarithm of σ²": mu + logvar * eps,
        "the noise is multiplied by σ², the variance": mu + sigma ** 2 * eps,
        "exp(2 logvar) is not σ: the ½ goes into the exponent": mu + (2 * logvar).exp() * eps,
        "μ is multiplied by σ, too": sigma * (mu + eps),
        "without noise every image has one code": mu})
    if z is not None and not torch.equal(values(z), values(again)):
        told = "Not yet: two calls with the same eps differ, so it draws noise of its own"
    elif told == "right" and not reaches(z, *inputs):
        told = "Not yet: the values are right, but no gradient gets back to both mu and logvar"
    print(told)


def reaches(z: Tensor, *inputs: Tensor) -> bool:
    """Whether a gradient of z gets back to each of the inputs."""
    return z.requires_grad and None not in torch.autograd.grad(z.sum(), inputs, allow_unused=True)


def check_variance(sigma2) -> None:
    """Says whether sigma2 costs least for x_hat = 2 z under squared error + 4 KL."""
    print(compare(sigma2, 1 / (1 + 8 / 4), {
        "that is σ, and its square is asked for": 3 ** -0.5,
        "that is 1 / σ²": 3.0,
        "the curvature of a square is twice its factor": 1 / (1 + 4 / 4),
        "that is without β, which says what the KL weighs": 1 / (1 + 8),
        "without any noise the KL is infinite": 0.0,
        "at the prior's own variance the KL is 0, and the error is not": 1.0}, near=0.02))


def check_elbo(elbo: Callable) -> None:
    """Says whether elbo(logits, x, mu, logvar) is the ELBO of every image, (B,)."""
    mu, logvar, _ = posteriors()
    draw = generator("cpu", 1, "exercises")
    logits, x = torch.randn(4, 3, 2, 2, generator=draw), torch.rand(4, 3, 2, 2, generator=draw)
    log_p = Bernoulli(logits=logits, validate_args=False).log_prob(x).flatten(1)    # (4, 12)
    kl, squares = from_prior(mu, (logvar / 2).exp()), (logits.sigmoid() - x).square().flatten(1)
    right = log_p.sum(1) - kl.sum(1)
    print(compare(elbo(logits, x, mu, logvar), right, {
        "that is the loss, which is minus the ELBO": -right,
        "the KL is a price, and here it is added": log_p.sum(1) + kl.sum(1),
        "the two terms of the loss are added in it, not subtracted": -log_p.sum(1) - kl.sum(1),
        "the mean over pixels is taken, and an image has all of them": log_p.mean(1) - kl.sum(1),
        "the mean over dimensions is taken, not their sum": log_p.sum(1) - kl.mean(1),
        "the KL is missing": log_p.sum(1),
        "squared error is not what the loop has": -squares.sum(1) - kl.sum(1)}))


def check_moved_weight(moved_weight: Callable) -> None:
    """Says whether moved_weight(weight, order) does to x[:, order] what the weight does to x."""
    weight = torch.randn(6, 6, generator=generator("cpu", 2, "exercises"))
    order = torch.tensor([2, 0, 3, 5, 1, 4])
    print(compare(moved_weight(weight.clone(), order), weight[:, order], {
        "that is the weight as it was": weight,
        "that is the order in which pixels go back": weight[:, order.argsort()],
        "that moves the units and not the pixels": weight[order]}))


def check_halfway(ratio) -> None:
    """Says whether `ratio` is how long the middle of two draws from N(0, I) is beside them."""
    print(compare(ratio, 0.5 ** 0.5, {
        "so much has the great circle, which keeps the length; a line cuts the corner": 1.0,
        "that is the ratio of the squared lengths": 0.5,
        "two draws do not cancel: they are nearly at a right angle": 0.0,
        "that is the length itself; divide by that of the ends": 8.0}, near=0.02))


def check_directions(lab: Lab, kept) -> None:
    """Says whether `kept` is how many directions squared error + 4 KL pays for on CIFAR-10."""
    known = scale(lab, "cifar").spectrum
    print(compare(kept, linear_optimum(known, sigma2=2.0).active, {
        "β itself is no variance; which σ² makes squared error a Gaussian's?":
            (known.eigenvalues > 4).sum(),
        "β / 8 is the price where pixels go from −1 to 1": (known.eigenvalues > 0.5).sum(),
        "1 is the variance of the prior, not the price": (known.eigenvalues > 1).sum()}))
