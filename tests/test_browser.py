"""The HTML export of the committed notebook in a browser, on a telephone's width and a desk's."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

from lab import export
from lab.submission import NOTEBOOK

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
               None)
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
           "--disable-background-networking", "--disable-component-update", "--disable-sync",
           "--allow-file-access-from-files", "--dump-dom"]
WIDTHS = (400, 1100, 1280)             # of a telephone, and the least with contents beside
pytestmark = pytest.mark.skipif(not BROWSER, reason="there is no Chromium")

# Frames of the widths that are asked for, every fold open, and what stands in them as a text.
WRAPPER = """<!doctype html><meta charset="utf-8">
<body>FRAMES<pre id="found"></pre><script>
function name(element) {
  return element.tagName.toLowerCase() + "." + element.className + " " +
    element.textContent.trim().slice(0, 40);
}
function luminance(colour) {
  const [r, g, b] = colour.match(/[\\d.]+/g).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function behind(view, element) {
  for (; element; element = element.parentElement) {
    const colour = view.getComputedStyle(element).backgroundColor;
    if (!colour.startsWith("rgba")) return colour;
  }
  return "rgb(255, 255, 255)";
}
function contrast(view, element) {
  const pair = [view.getComputedStyle(element).color, behind(view, element)].map(luminance);
  return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}
function measure(frame) {
  const page = frame.contentDocument, root = page.documentElement, view = frame.contentWindow;
  page.querySelectorAll("details").forEach(fold => { fold.open = true; });
  const all = [...page.querySelectorAll("main *")];
  const wider = e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0;
  const scroll = e => view.getComputedStyle(e).overflowX;
  return {
    width: frame.width, room: root.clientWidth, used: root.scrollWidth,
    images: [...page.images].map(image => image.naturalWidth),
    cut: all.filter(e => wider(e) && ["hidden", "clip"].includes(scroll(e))).map(name),
    scrolling: all.filter(e => wider(e) && ["auto", "scroll"].includes(scroll(e))).map(name),
    contents: [...page.querySelectorAll("nav")].filter(e => e.offsetParent)
      .map(e => e.className),
    links: [...page.querySelectorAll("nav a")].map(link => {
      const found = page.querySelectorAll("[id='" + decodeURIComponent(link.hash.slice(1)) + "']");
      return [link.textContent, [...found].map(e => e.tagName + " " + e.textContent)];
    }),
    headings: [...page.querySelectorAll("main h1, main h2")].map(e => e.textContent),
    faint: [...page.querySelectorAll(".highlight span")]
      .filter(e => e.textContent.trim() && contrast(view, e) < 4.5)
      .map(e => e.className + " " + contrast(view, e).toFixed(2)),
    comments: page.querySelectorAll(".highlight .c1").length,
    beside: [0, 5000].map(y => {
      view.scrollTo(0, y);
      return page.querySelector(".contents.side").getBoundingClientRect().top;
    }),
  };
}
window.onload = () => {
  document.getElementById("found").textContent =
    JSON.stringify([...document.querySelectorAll("iframe")].map(measure));
};
</script>"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What stands in the exported page, by the width that it was shown in."""
    folder = tmp_path_factory.mktemp("browser")
    page = export.export(NOTEBOOK, folder / "page.html")
    frames = "".join(f'<iframe src="{page.name}" width="{width}" height="900"></iframe>'
                     for width in WIDTHS)
    (folder / "wrapper.html").write_text(WRAPPER.replace("FRAMES", frames), encoding="utf-8")
    shown = subprocess.run(
        [BROWSER, *OPTIONS, f"--user-data-dir={folder / 'profile'}",
         (folder / "wrapper.html").as_uri()], capture_output=True, text=True, timeout=60)
    found = re.search(r'<pre id="found">(.+?)</pre>', shown.stdout, re.DOTALL)
    assert found, shown.stderr[-2000:]
    return dict(zip(WIDTHS, json.loads(unescape(found[1])), strict=True))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_never_scrolls_sideways_and_nothing_is_cut_off(measured, width):
    page = measured[width]
    assert width - 30 < page["room"] <= width
    assert page["used"] <= page["room"], page["scrolling"]
    assert page["cut"] == []


def test_what_is_too_wide_for_a_telephone_scrolls_in_its_own_box(measured):
    assert measured[400]["scrolling"]
    assert [box for box in measured[400]["scrolling"] if not box.startswith("div.wide")] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_every_image_is_decoded(measured, width):
    assert measured[width]["images"] and min(measured[width]["images"]) > 0


@pytest.mark.parametrize(("width", "place"), [
    (400, "contents top"), (1100, "contents side"), (1280, "contents side")])
def test_contents_stand_above_the_text_or_beside_it(measured, width, place):
    assert measured[width]["contents"] == [place]


def test_contents_beside_the_text_stay_there_when_it_scrolls(measured):
    assert measured[1280]["beside"] == [0, 0]


@pytest.mark.parametrize("width", WIDTHS)
def test_every_link_of_the_contents_reaches_its_heading(measured, width):
    links, headings = measured[width]["links"], measured[width]["headings"]
    assert [text for text, _ in links] == headings * 2          # above the text and beside it
    assert [found for text, found in links if found not in ([f"H1 {text}"], [f"H2 {text}"])] == []


def test_code_and_its_comments_stand_out_from_their_ground(measured):
    assert measured[1280]["comments"] and set(measured[1280]["faint"]) == set()
