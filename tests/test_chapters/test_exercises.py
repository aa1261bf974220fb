"""Exercises: nothing waits for an answer, the worked ones are right, the usual slips are named."""

import functools
import re

import pytest

from lab import publish
from lab.notebook import Lab

FOLD = r"(?s)<details><summary>Answer</summary>\n\n```python\n([^`]*\n)```\n\n.*\n\n</details>"
NAMES = ["kl", "reparameterize", "variance", "elbo", "moved_weight", "halfway", "directions"]


@pytest.fixture(scope="module")
def namespace(tmp_path_factory):
    """What the notebook has imported where a reader writes, on few drawn images."""
    (setup,) = publish.tagged(publish.read_notebook(publish.NOTEBOOK), "setup")
    names, runs = {}, str(tmp_path_factory.mktemp("exercises"))
    exec(setup.source.split("here = ")[0], names)
    small = {"TRAIN_LIMIT": 60, "DATA": "standin", "DEVICE": "cpu", "RUNS": runs}
    return names | {"here": Lab(small)}


@functools.cache
def written():
    """The cells of every exercise by its name: question, code, and the worked answer's code."""
    cells = publish.read_notebook(publish.NOTEBOOK).cells
    found = {}
    for before, cell, after in zip(cells, cells[1:], cells[2:], strict=False):
        if "exercise" in publish.tags(cell):
            name = re.search(r"check_(\w+)", cell.source)[1]
            found[name] = before.source, cell.source, re.fullmatch(FOLD, after.source)[1]
    return found


def said(capsys, code, namespace):
    exec(code, dict(namespace))
    return capsys.readouterr().out.splitlines()[-1]


def test_every_exercise_has_a_question_a_hint_and_a_cell_that_ends_on_its_check():
    assert list(written()) == NAMES
    for name, (question, code, answer) in written().items():
        *lines, last = code.splitlines()
        assert question.startswith("**Exercise") and "*Hint:*" in question and len(lines) < 12
        assert re.fullmatch(rf"exercises\.check_{name}\((here, )?\w+\)", last)
        assert answer.splitlines()[-1].strip() not in code


@pytest.mark.parametrize("name", NAMES)
def test_unanswered_it_says_so_and_the_worked_answer_is_right(name, namespace, capsys):
    _, code, answer = written()[name]
    assert said(capsys, code, namespace) == "not answered yet"
    *lines, last = code.splitlines()
    assert said(capsys, "\n".join([*lines, answer, last]), namespace) == "right"


def answered(name, answer, namespace, capsys):
    """What the exercise's own cell says of an answer in one expression."""
    *lines, last = written()[name][1].splitlines()
    asked = re.search(r"(\w+)\)$", last)[1] + " = " + answer
    return said(capsys, "\n".join([*lines, asked, last]), namespace)


KL, DRAW, ELBO, MOVE = (f"lambda {names}: " for names in ("m, v", "m, v, e", "l, x, m, v", "w, o"))
BCE = "(torch.nn.functional.softplus(l) - x * l).flatten(1)"


@pytest.mark.parametrize(("name", "answer"), [
    ("kl", KL + "(m ** 2 + v.exp() - v).sum(dim=1) / 2 - m.shape[1] / 2"),
    ("kl", KL + "-0.5 * (1 + v.double() - m.double() ** 2 - v.double().exp()).sum(1)"),
    ("kl", KL + "(0.5 * (m ** 2 + v.exp() - 1 - v)).numpy().sum(1, keepdims=True)"),
    ("reparameterize", DRAW + "e * v.exp().sqrt() + m"),
    ("reparameterize", DRAW + "torch.addcmul(m, torch.exp(v / 2), e)"),
    ("variance", "0.33"), ("variance", "torch.tensor([1 / 3])"), ("halfway", "0.7"),
    ("directions", "(eigenvalues > 2).sum().item()"),
    ("elbo", ELBO + "(x * l - l.exp().log1p()).sum((1, 2, 3)) - kl_divergence(m, v).sum(1)"),
    ("moved_weight", MOVE + "torch.stack([w[:, i] for i in o], 1)")])
def test_an_equivalent_answer_is_right(name, answer, namespace, capsys):
    assert answered(name, answer, namespace, capsys) == "right"


@pytest.mark.parametrize(("name", "answer", "told"), [
    ("kl", KL + "0.5 * (m ** 2 + v.exp() - 1 - v).mean(1)", "mean over the dimensions"),
    ("kl", KL + "(m ** 2 + v.exp() - 1 - v).sum(1)", "½"),
    ("kl", KL + "-0.5 * (m ** 2 + v.exp() - 1 - v).sum(1)", "sign"),
    ("kl", KL + "0.5 * (m ** 2 + v ** 2 - 1 - 2 * v.log()).sum(1)", "logvar is taken for σ, "),
    ("kl", KL + "0.5 * (m ** 2 + v - 1 - v.log()).sum(1)", "logvar is taken for σ², "),
    ("kl", KL + "0.5 * (m ** 2 + v.exp() ** 2 - 1 - 2 * v).sum(1)", "exp(logvar) is taken for σ"),
    ("kl", KL + "0.5 * (m ** 2 + v.exp() - 1 - v)", "(4, 3), and (4,)"),
    ("kl", KL + "0.5 * (m ** 2 + v.exp() - 1 - v).sum(1).mean()", "(), and (4,)"),
    ("kl", KL + "v.sum(1) * float('nan')", "does the hint help"),
    ("reparameterize", DRAW + "m + v * e", "logvar is taken for σ"),
    ("reparameterize", DRAW + "m + v.exp() * e", "multiplied by σ²"),
    ("reparameterize", DRAW + "m + (2 * v).exp() * e", "exp(2 logvar)"),
    ("reparameterize", DRAW + "(m + e) * (v / 2).exp()", "μ is multiplied"),
    ("reparameterize", DRAW + "m + (v / 2).exp() * torch.randn_like(m)", "noise of its own"),
    ("reparameterize", DRAW + "m + (v.detach() / 2).exp() * e", "no gradient"),
    ("reparameterize", DRAW + "(m + (v / 2).exp() * e).detach()", "no gradient"),
    ("reparameterize", DRAW + "m", "without noise"), ("variance", "3", "1 / σ²"),
    ("variance", "3 ** -0.5", "and its square"), ("variance", "1 / 9", "without β"),
    *(("variance", *slip) for slip in (("0.5", "curvature"), ("0", "infinite"), ("1", "prior's"))),
    ("elbo", ELBO + BCE + ".sum(1) + kl_divergence(m, v).sum(1)", "the loss, which is minus"),
    ("elbo", ELBO + "-" + BCE + ".sum(1) + kl_divergence(m, v).sum(1)", "here it is added"),
    ("elbo", ELBO + BCE + ".sum(1) - kl_divergence(m, v).sum(1)", "added in it"),
    ("elbo", ELBO + "-" + BCE + ".mean(1) - kl_divergence(m, v).sum(1)", "mean over pixels"),
    ("elbo", ELBO + "-" + BCE + ".sum(1) - kl_divergence(m, v).mean(1)", "mean over dimensions"),
    ("elbo", ELBO + "-" + BCE + ".sum() - kl_divergence(m, v).sum()", "(), and (4,)"),
    ("elbo", ELBO + "-(l.sigmoid() - x).square().sum((1, 2, 3)) - kl_divergence(m, v).sum(1)",
     "squared error"),
    ("moved_weight", MOVE + "w", "as it was"), ("moved_weight", MOVE + "w[o]", "units"),
    ("moved_weight", MOVE + "w[:, o.argsort()]", "go back"), ("halfway", "0", "right angle"),
    ("halfway", "1", "great circle"), ("halfway", "0.5", "squared"), ("halfway", "8.", "divide"),
    *(("directions", f"(eigenvalues > {price}).sum()", told) for price, told in (
        (4, "β itself"), (0.5, "from −1 to 1"), (1, "variance of the prior")))])
def test_a_usual_slip_is_named(name, answer, told, namespace, capsys):
    heard = answered(name, answer, namespace, capsys)
    assert heard.startswith("Not yet") and told in heard
