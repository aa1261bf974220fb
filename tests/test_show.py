"""What is shown: tables of numbers, findings that are numbers, figures kept whole, progress."""

import base64
import io
import json
import math
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

import vae_helpers
from lab.show import (
    Findings,
    Progress,
    Source,
    Table,
    keep_figure,
    labelled_rows,
    number,
)
from vae_helpers import new_figure, picture, tile

# ---- tables

ROWS = [{"model": "conv", "loss": 1824.06, "epochs": 10, "gain": -0.25, "norms": (1.5, -2.0)},
        {"model": "mean | image", "loss": 2117.8, "epochs": None, "gain": None, "norms": None}]
FORMATS = {"loss": ",.1f", "gain": "+.0%", "norms": ".1f"}


def test_table_is_markdown_with_numbers_to_the_right_each_in_its_columns_format():
    assert Table(ROWS, FORMATS)._repr_markdown_().splitlines() == [
        "| model | loss | epochs | gain | norms |",
        "| --- | ---: | ---: | ---: | --- |",
        "| conv | 1,824.1 | 10 | −25 % | 1.5, −2.0 |",
        "| mean \\| image | 2,117.8 |  |  |  |"]


def test_table_stays_numbers():
    table = Table(ROWS, FORMATS)
    assert table.column("loss") == [1824.06, 2117.8] and table.column("epochs") == [10, None]


@pytest.mark.parametrize(("values", "right"), [
    ([1, 2.5], True), ([None, 1], True), ([0.0], True), ([np.float64(1.5)], True),
    (["1", "2"], False), (["3×32×32"], False), ([1, "not trained"], False), ([None, None], False),
    ([True], False), ([(1, 2)], False)], ids=str)
def test_column_stands_right_if_its_values_are_numbers(values, right):
    line = Table([{"a": value} for value in values])._repr_markdown_().splitlines()[1]
    assert line == ("| ---: |" if right else "| --- |")


@pytest.mark.parametrize(("value", "spec", "shown"), [
    (1234567, "", "1,234,567"), (1234.5678, "", "1.23e+03"), (0.12345, "", "0.123"), (7, "", "7"),
    (-7, "", "−7"), (-0.5, "+.1f", "−0.5"), (0.5, "+.1f", "+0.5"), (1824.06, ",.1f", "1,824.1"),
    (0.382, ".0%", "38 %"), (-0.05, ".1%", "−5.0 %"), (1e-9, ".0e", "1e−09"), (10, ".1f", "10.0")])
def test_number_has_a_real_minus_and_a_space_before_percent(value, spec, shown):
    assert number(value, spec) == shown


def test_table_without_markdown_is_columns_of_text():
    assert repr(Table(ROWS, FORMATS, "A caption")).splitlines() == [
        "A caption",
        "model         loss     epochs  gain   norms",
        "conv          1,824.1  10      −25 %  1.5, −2.0",
        "mean | image  2,117.8"]


def test_caption_stands_above_and_an_empty_table_is_its_caption():
    head = Table([{"a": 1}], caption="So many.")._repr_markdown_().splitlines()
    assert head == ["So many.", "", "| a |", "| ---: |", "| 1 |"]
    empty = Table([], caption="Nothing is trained.")
    assert empty._repr_markdown_() == repr(empty) == "Nothing is trained."


def test_rows_have_the_heads_of_the_first():
    table = Table([{"a": 1, "b": 2}, {"b": 4, "a": 3}])
    assert table.cells() == [["a", "b"], ["1", "2"], ["3", "4"]]


# ---- findings


@pytest.mark.parametrize("value", [1.5, 7, 0, -2.0, torch.tensor(1.5), torch.tensor(7),
                                   np.float32(0.5), np.int64(3)], ids=repr)
def test_finding_is_kept_and_handed_on_as_a_plain_number(value):
    found = Findings()
    handed = found.keep("a.b", value, "nats")
    assert type(handed) in (int, float) and handed == value == found["a.b"] == found.get("a.b")
    assert dict(found) == {"a.b": handed} and len(found) == 1 and "a.c" not in found


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "1.5", "", True, [1.0],
                                   1 + 0j, torch.tensor(math.nan), torch.tensor(True)], ids=repr)
def test_what_is_no_finite_number_is_no_finding(value):
    found = Findings()
    assert found.keep("conv.loss", value) is None and not found


def test_results_are_numbers_with_unit_run_and_note(tmp_path):
    found, path = Findings(), tmp_path / "new" / "results.json"
    found.keep("conv.loss", 1824.06, "nats", run=SimpleNamespace(hash="0633c029"), note="test")
    found.keep("seeds", 3)
    found.keep("later", torch.tensor(2.5))
    trainings = [{"training": "conv", "epochs": 10}]
    found.write(path, trainings)
    results = json.loads(path.read_text())
    assert results["findings"]["conv.loss"] == {
        "value": 1824.06, "unit": "nats", "run": "0633c029", "note": "test"}
    assert results["findings"]["seeds"]["run"] is None
    assert all(type(kept["value"]) in (int, float) for kept in results["findings"].values())
    assert results["trainings"] == trainings
    assert results["versions"].keys() == {"python", "torch", "numpy"}

# ---- figures


def line_figure():
    figure, axes = new_figure()
    axes.plot([1, 3, 2], color="#0072B2")
    axes.set_title("a title")
    return figure


def test_figure_is_kept_by_its_name_and_shown_with_its_alt_text(tmp_path):
    path = tmp_path / "figures" / "rises"
    shown = keep_figure(line_figure(), path, "A line that rises.")
    assert [p.name for p in path.parent.iterdir()] == ["rises.png"] and not plt.get_fignums()
    data, metadata = shown._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]) == path.with_suffix(".png").read_bytes()
    image = Image.open(path.with_suffix(".png"))
    assert data["text/plain"] == repr(shown) == "A line that rises."
    assert metadata == {"image/png": {"alt": "A line that rises.", "width": image.width}}
    assert image.size == (880, 352) and image.format == "PNG"


def test_pictures_are_jpegs_that_keep_their_colours(tmp_path):
    noise = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(noise, 9, stride=1, padding=4, count_include_pad=False)
    sheet = tile(smooth, 4, zoom=3)
    shown = keep_figure(picture({"images": sheet}, "Images"), tmp_path / "images",
                        "Twelve images.", True)
    data, _ = shown._repr_mimebundle_()
    content = base64.b64decode(data["image/jpeg"])
    assert content == (tmp_path / "images.jpg").read_bytes()
    image = Image.open(io.BytesIO(content))
    assert image.format == "JPEG" and "png" not in str(data.keys())
    drawn, (h, w) = np.asarray(image, float), sheet.shape[:2]
    top, left = 34 + 22, 14                         # below the heads, beside the margin
    assert np.abs(drawn[top: top + h, left: left + w] - sheet).mean() < 3


def test_labelled_rows_show_every_pixel_and_name_rows_and_columns():
    """Two rows of three images of one colour each, twice as large."""
    colours = torch.tensor([0, 40, 80, 120, 160, 200], dtype=torch.uint8)
    images = colours.view(6, 1, 1, 1).expand(6, 3, 8, 8)
    drawn = labelled_rows({"one": images[:3], "two": images[3:]}, "Title", columns=("a", "b", "c"),
                          zoom=2, label=50)
    drawn.canvas.draw()
    shown = np.asarray(drawn.canvas.buffer_rgba())[..., 0]
    assert {text.get_text() for text in drawn.texts} == {"Title", "one", "two", "a", "b", "c"}
    top, left = 60, 50 + 14                                     # below the heads, beside the names
    for i, colour in enumerate(colours.tolist()):
        y, x = top + i // 3 * 20, left + i % 3 * 20             # 16 pixels and a gap of 4
        assert (shown[y:y + 16, x:x + 16] == colour).all()
    plt.close(drawn)


def test_labelled_rows_stand_in_blocks_with_room_between_them():
    """One row of four images of one colour each, in two blocks of two."""
    colours = torch.tensor([0, 50, 100, 150], dtype=torch.uint8)
    images = colours.view(4, 1, 1, 1).expand(4, 3, 8, 8)
    drawn = labelled_rows({"": images}, "", zoom=1, label=50, blocks=2)
    drawn.canvas.draw()
    row = np.asarray(drawn.canvas.buffer_rgba())[38, 64:, 0]    # below the title, beside the name
    for x, colour in zip((0, 10, 26, 36), colours.tolist(), strict=True):
        assert (row[x:x + 8] == colour).all()
    assert (row[18:26] == 255).all()                            # between the blocks
    plt.close(drawn)


def test_a_picture_of_noise_is_kept_whole(tmp_path):
    """It takes more than a byte a pixel, which is what the writer of JPEGs is prepared for."""
    noise = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8,
                          generator=torch.Generator().manual_seed(0))
    drawn = picture({"": tile(noise, 8, zoom=1)}, "")
    room = ImageFile.MAXBLOCK
    kept = keep_figure(drawn, tmp_path / "noise", "Noise.", picture=True)
    assert Image.open(io.BytesIO(kept.data)).size[0] == kept.width
    assert ImageFile.MAXBLOCK == room                   # nobody else's pictures change by it


def test_line_drawings_keep_the_colours_that_they_are_drawn_in(tmp_path):
    keep_figure(line_figure(), tmp_path / "line", "A line.")
    image = np.asarray(Image.open(tmp_path / "line.png").convert("RGB")).reshape(-1, 3)
    assert (np.abs(image - np.array([0x00, 0x72, 0xB2])).max(1) <= 3).sum() > 100
    assert (image == 255).all(1).mean() > 0.5


# ---- source and progress


def test_source_is_the_text_that_runs():
    source = Source(vae_helpers.kl_divergence, vae_helpers.Terms.loss)
    assert "0.5 * (mu ** 2 + logvar.exp() - 1 - logvar)" in source._repr_markdown_()
    assert source._repr_markdown_().count("```") == 4
    assert repr(source).splitlines()[-3].startswith("def loss(self")


def test_progress_in_a_log_is_its_head_and_the_lines_that_stay(capsys):
    progress = Progress("conv: 2 epochs")
    progress.tick("at once"), progress.files(1, 1000, "files")
    progress.line("epoch 1"), progress.done()
    assert capsys.readouterr().out == "conv: 2 epochs\nepoch 1\n"


def test_progress_without_a_log_is_its_head(capsys):
    progress = Progress("conv: 2 epochs", log=False)
    progress.line("epoch 1"), progress.done()
    assert capsys.readouterr().out == "conv: 2 epochs\n"


class Handle:
    """A notebook's display that notes what it shows."""

    def __init__(self):
        self.shown = []

    def update(self, pretty):
        self.shown.append(pretty.data)


def test_live_line_without_a_log_ends_on_nothing():
    progress = Progress("images", log=False)
    progress.handle = Handle()
    progress.tick("half of them"), progress.done()
    assert progress.handle.shown[-1] == ""


def test_live_line_in_a_notebook_is_rare_and_ends_as_it_began(capsys):
    progress = Progress("conv")
    progress.handle = Handle()
    for i in range(100):
        progress.tick(f"step {i}")
    progress.line("epoch 1"), progress.done()
    assert progress.handle.shown[-1] == "conv" and len(progress.handle.shown) <= 3
