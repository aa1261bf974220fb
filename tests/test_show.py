"""What is shown: tables of numbers, findings that are numbers, figures kept whole, progress."""

import base64
import io
import itertools
import json
import math
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from lab.show import (
    Findings,
    Progress,
    Table,
    keep_figure,
    keep_moving,
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


@pytest.mark.parametrize(("values", "right"), [
    ([None, 1], True), ([np.float64(1.5)], True), (["1", "2"], False), ([1, "not trained"], False),
    ([True], False), ([(1, 2)], False)], ids=str)
def test_column_stands_right_if_its_values_are_numbers(values, right):
    table = Table([{"a": value} for value in values])
    assert table._repr_markdown_().splitlines()[1] == ("| ---: |" if right else "| --- |")
    assert table.column("a") == values


@pytest.mark.parametrize(("value", "spec", "shown"), [
    (1234567, "", "1,234,567"), (1234.5678, "", "1.23e+03"), (-7, "", "−7"), (0.5, "+.1f", "+0.5"),
    (-0.05, ".1%", "−5.0 %"), (1e-9, ".0e", "1e−09"), (10, ".1f", "10.0"),
    (-0.04, ".1f", "0.0"), (-0.004, ".0%", "0 %"), (-0.04, ".2f", "−0.04")])
def test_number_has_a_real_minus_and_a_space_before_percent(value, spec, shown):
    assert number(value, spec) == shown


def test_a_table_in_a_terminal_has_columns_below_each_other_and_heads_in_lines():
    rows = [{"model": "conv", "loss above its floor": 143.5, "KL": 40, "none": None},
            {"model": "the mean image", "loss above its floor": 1436.1, "KL": None, "none": None}]
    table = Table(rows, {"loss above its floor": ",.1f"}, "Two of them.")
    assert str(table).splitlines() == [
        "Two of them.",
        "                loss above",
        "model            its floor  KL",
        "conv                 143.5  40",
        "the mean image     1,436.1"]
    assert str(Table([], caption="None.")) == "None."


def test_a_column_of_nothing_but_gaps_is_not_shown():
    rows = [{"a": 1, "b": None, "c": None}, {"a": 2, "b": None, "c": 0}]
    assert Table(rows)._repr_markdown_() == "| a | c |\n| ---: | ---: |\n| 1 |  |\n| 2 | 0 |"


def test_caption_stands_above_and_an_empty_table_is_its_caption():
    """Rows have the heads of the first one, in its order."""
    table = Table([{"a": 1, "b": "x"}, {"b": "y", "a": 3}], caption="So many.")
    assert table._repr_markdown_().splitlines() == [
        "So many.", "", "| a | b |", "| ---: | --- |", "| 1 | x |", "| 3 | y |"]
    folded = Table(ROWS, FORMATS, "So many.", fold="All 2 rows")._repr_markdown_()
    assert folded == ("<details><summary>All 2 rows</summary>\n\n"
                      + Table(ROWS, FORMATS, "So many.")._repr_markdown_() + "\n\n</details>")
    empty = Table([], caption="Nothing is trained.")
    assert empty._repr_markdown_() == repr(empty) == "Nothing is trained."


# ---- findings


def test_findings_are_plain_finite_numbers_with_unit_run_and_note(tmp_path):
    found, path = Findings(), tmp_path / "new" / "results.json"
    numbers = {"a": 1.5, "b": 0, "c": torch.tensor(7), "d": np.float32(0.5)}
    for name, value in numbers.items():
        handed = found.keep(name, value, "nats", run=SimpleNamespace(hash="0633c029"), note="test")
        assert type(handed) in (int, float) and handed == value == found[name]
    for value in (math.nan, -math.inf, None, "1.5", True, [1.0], torch.tensor(math.nan)):
        assert found.keep("none", value) is None
    found.keep("seeds", 3)
    assert dict(found) == {**numbers, "seeds": 3}
    found.write(path, [{"training": "conv"}])
    results = json.loads(path.read_text())
    assert results["findings"]["a"] == {"value": 1.5, "unit": "nats", "run": "0633c029",
                                        "note": "test"}
    assert results["findings"]["seeds"] == {"value": 3, "unit": "", "run": None, "note": ""}
    assert results["trainings"] == [{"training": "conv"}]
    assert results["versions"].keys() == {"python", "torch", "numpy"}


# ---- figures


def test_figure_is_kept_by_its_name_and_shown_with_its_alt_text(tmp_path):
    path, open_before = tmp_path / "figures" / "rises", plt.get_fignums()
    figure, axes = new_figure()
    axes.plot([1, 3, 2], color="#0072B2")
    shown = keep_figure(figure, path, "A line that rises.")
    assert [p.name for p in path.parent.iterdir()] == ["rises.png"]
    assert plt.get_fignums() == open_before
    data, metadata = shown._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]) == path.with_suffix(".png").read_bytes()
    image = Image.open(path.with_suffix(".png"))
    assert data["text/plain"] == repr(shown) == "A line that rises."
    assert metadata == {"image/png": {"alt": "A line that rises.", "width": image.width}}
    assert image.size == (880, 352) and image.format == "PNG"
    pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert (np.abs(pixels - np.array([0x00, 0x72, 0xB2])).max(1) <= 3).sum() > 100


def test_pictures_are_jpegs_that_keep_their_colours(tmp_path):
    noise = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(noise, 9, stride=1, padding=4, count_include_pad=False)
    sheet = tile(smooth, 4, zoom=3)
    shown = keep_figure(picture({"images": sheet}, "Images"), tmp_path / "images",
                        "Twelve images.", True)
    assert shown.kind == "image/jpeg" and shown.data == (tmp_path / "images.jpg").read_bytes()
    drawn, (h, w) = np.asarray(Image.open(io.BytesIO(shown.data)), float), sheet.shape[:2]
    top, left = 34 + 22, 14                         # below the heads, beside the margin
    assert np.abs(drawn[top: top + h, left: left + w] - sheet).mean() < 3


def test_labelled_rows_show_every_pixel_in_blocks_and_name_rows_and_columns():
    """Two rows of four images of one colour each, in two blocks of two, twice as large."""
    colours = torch.arange(0, 240, 30, dtype=torch.uint8)
    images = colours.view(8, 1, 1, 1).expand(8, 3, 8, 8)
    drawn = labelled_rows({"one": images[:4], "two": images[4:]}, "Title", ("a", "b", "c", "d"),
                          zoom=2, label=50, blocks=2)
    drawn.canvas.draw()
    shown = np.asarray(drawn.canvas.buffer_rgba())[..., 0]
    assert {text.get_text() for text in drawn.texts} == {"Title", "one", "two", "a", "b", "c", "d"}
    top, left = 60, 50 + 14                                     # below the heads, beside the names
    for colour, (row, x) in zip(colours.tolist(), itertools.product(
            (0, 1), (0, 20, 52, 72)), strict=True):             # 16 pixels and 4, between blocks 16
        y = top + 20 * row
        assert (shown[y:y + 16, left + x:left + x + 16] == colour).all()
    assert (shown[top:top + 36, left + 36:left + 52] == 255).all()
    plt.close(drawn)


def moving_frames():
    """32 frames of two images side by side, which fade and which are soft as faces are."""
    noise = torch.rand(4, 1, 72, 72, generator=torch.Generator().manual_seed(0))
    soft = torch.nn.functional.avg_pool2d(noise, 9, stride=1)
    tint = torch.tensor([1, 0.8, 0.6]).view(3, 1, 1)
    ends = (0.5 + 4 * (soft - 0.5)).clamp(0, 1) * tint              # (4, 3, 64, 64)
    t = torch.linspace(0, 1, 9)[:-1].view(1, -1, 1, 1, 1)
    fade = ((1 - t) * ends[:, None] + t * ends.roll(-1, 0)[:, None]).flatten(0, 1)
    return torch.stack([fade, fade ** 2], 1)


def test_a_picture_that_moves_stops_after_three_rounds_and_is_the_same_twice(tmp_path):
    frames = moving_frames()
    shown = keep_moving(frames, tmp_path / "new" / "loop", "Two faces that turn into others.")
    assert (tmp_path / "new" / "loop.gif").read_bytes() == shown.data
    assert keep_moving(frames, tmp_path / "again", "").data == shown.data
    data, about = shown._repr_mimebundle_()
    assert data.keys() == {"image/gif", "text/plain"} and data["text/plain"] == about[
        "image/gif"]["alt"] == "Two faces that turn into others."
    moved = Image.open(io.BytesIO(shown.data))
    assert moved.n_frames == 32 and moved.size == (64 + 2 + 64, 64) and shown.width == 4 * 130
    assert moved.info["loop"] == 2 and moved.info["duration"] == 100    # twice after the first
    for i in (0, 1, 17, 31):
        moved.seek(i)
        drawn = np.asarray(moved.convert("RGB"), float)
        assert np.abs(drawn - tile(frames[i], 2, zoom=1)).mean() < 5


# ---- progress


@pytest.mark.parametrize(("log", "printed"), [(True, "conv\nepoch 1\n"), (False, "conv\n")])
def test_progress_is_its_head_and_the_lines_that_stay_if_it_has_a_log(capsys, log, printed):
    progress = Progress("conv", log)
    progress.tick("at once"), progress.files(1, 1000, "files")
    progress.line("epoch 1"), progress.done()
    assert capsys.readouterr().out == printed
