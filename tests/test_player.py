"""The decoder in the exported page: its 8 bits, its arithmetic, and what a browser may run."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from nbformat import v4
from tiny import generator, grey, noise_images

from lab import export, player
from lab.linear import linear_vae_parameters, spectrum, turn_towards
from lab.recipes import RECIPES
from lab.shipped import at_8_bits, unpacked, write_shipped
from vae_helpers import build

LEVEL = 1 / 255
needs_browser = pytest.mark.skipif(not export.browser() or sys.platform != "linux",
                                   reason="there is no Chrome, Chromium or Edge on Linux here")


@pytest.fixture(scope="module")
def kept():
    """The file of a decoder that is not trained; its weights are made larger, so that it draws."""
    model = build(RECIPES["celeba32"], 0).eval()
    with torch.no_grad():
        for weight in model.decoder.parameters():
            weight.mul_(2)
    weights = {f"model.decoder.{name}": value for name, value in model.decoder.state_dict().items()}
    parts = at_8_bits(weights | player.linear_weights(model, noise_images(60, 32).images))
    return parts | {"kl": torch.rand(128, generator=generator(3))}


def pictures(kept, z):
    """What torch draws of codes with the weights of the file."""
    floats, network = unpacked(kept), build(RECIPES["celeba32"], 0).eval()
    network.decoder.load_state_dict({name.removeprefix("model.decoder."): value
                                     for name, value in floats.items() if "decoder" in name})
    return player.pictures(network, floats, z)


def page_of(folder, kept=None, *cells):
    """The path of a page with a marked cell, beside the file where there is one."""
    marked = v4.new_code_cell("still", metadata={"tags": ["player"]},
                              outputs=[v4.new_output("stream", text="a still")])
    if kept:
        write_shipped(folder / export.WEIGHTS, kept, {})
    nbformat.write(v4.new_notebook(cells=[marked, *cells]), folder / "toy.ipynb")
    return export.export(folder / "toy.ipynb")


@pytest.fixture(scope="module")
def page(tmp_path_factory, kept):
    return page_of(tmp_path_factory.mktemp("page"), kept)


def told(page):
    """What the page's text holds for the script."""
    return json.loads(BeautifulSoup(page.read_bytes(), "html.parser").select_one(
        ".player script").string)


SCRIPT = """const { unpacked, decode } = new Function(
  require("fs").readFileSync(process.argv[1], "utf8") + ";return { unpacked, decode }")();
const { text, z } = JSON.parse(require("fs").readFileSync(0));
console.log(JSON.stringify([text.decoder, text.linear].map((layers) =>
  z.map((code) => Array.from(decode(layers.map(unpacked), Float32Array.from(code)))))));"""

@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
def test_the_script_decodes_the_text_in_the_page_as_torch_does(page, kept):
    z = 1.5 * torch.randn(4, 128, generator=generator(1))
    done = subprocess.run(
        ["node", "-e", SCRIPT, str(export.TEMPLATES / "offline" / "player.js")], text=True,
        input=json.dumps({"text": told(page), "z": z.tolist()}), capture_output=True, check=True)
    for got, want in zip(json.loads(done.stdout), pictures(kept, z), strict=True):
        assert want.std() > 0.02                                # it draws something
        assert (torch.tensor(got) - want.flatten(1)).abs().max() < LEVEL


def test_a_planted_turn_of_the_code_is_found():
    images = grey(60)
    best = linear_vae_parameters(spectrum(images, 6), 0.01, 6)
    turn = torch.linalg.qr(torch.randn(8, 6, generator=generator(2)).double())[0].T     # (6, 8)
    codes = (images.flatten(1) / 255 - best.mean) @ best.encoder.T @ turn               # (60, 8)
    assert torch.allclose(turn_towards(best, codes, images), turn, atol=1e-6)


def test_the_policy_names_the_one_script_by_the_digest_of_its_bytes(page, tmp_path):
    scripts = re.findall(rb"<script>(.*?)</script>", page.read_bytes(), re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts]
    html = page.read_text(encoding="utf-8")
    assert re.findall(r"script-src (.*?)\"", html) == [f"'sha256-{digests[0]}'"]
    assert len(digests) == 1 and "<noscript>" in html and len(html) < 2.5e6
    without = page_of(tmp_path).read_text(encoding="utf-8")
    assert "<script" not in without and "script-src" not in without


CLICK = """<iframe src="toy.html" width="900"></iframe><script>onload = () => {
  const inside = frames[0], page = inside.document;
  inside.Math.random = () => 0.5;
  page.querySelector(".player button").click();
  const dots = [...page.querySelectorAll("canvas")].map((canvas) => Array.from(
    canvas.getContext("2d").getImageData(0, 0, 32, 32).data));
  document.title = JSON.stringify([dots, page.querySelectorAll(".player label > input").length,
    page.querySelector("output").textContent, page.title]); }</script>"""


@needs_browser
@pytest.mark.parametrize("planted", [False, True])
def test_a_browser_draws_what_torch_draws_and_runs_no_other_script(tmp_path, kept, planted):
    """A draw of 0.5 and 0.5 is -1.177 in every dimension, and -1.2 by a slider."""
    script = v4.new_output("display_data", {"text/html": "<script>document.title = 1</script>"})
    page = page_of(tmp_path, kept, *[v4.new_code_cell("", outputs=[script])] * planted)
    (tmp_path / "frame.html").write_text(CLICK, encoding="utf-8")
    shown = export.browse(tmp_path / "frame.html", "--allow-file-access-from-files", "--dump-dom",
                          "--enable-logging=stderr")
    dots, sliders, sentence, title = json.loads(re.search("<title>(.*?)</title>", shown.stdout)[1])
    z = torch.full((1, 128), -(2 * np.log(2)) ** 0.5)
    z[0, told(page)["dims"]] = -1.2
    for got, want in zip(dots, pictures(kept, z), strict=True):
        rgb = torch.tensor(got).view(32, 32, 4)[..., :3].permute(2, 0, 1)
        assert (rgb - 255 * want[0]).abs().max() < 1
    assert sliders == 1 + player.SLIDERS and "grey levels apart" in sentence and title == "toy"
    assert ("CONSOLE" in shown.stderr) == planted
