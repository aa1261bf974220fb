"""Cartoon faces with CelebA's names for what can be seen in them."""

import numpy as np

from data.drawing import Array, Canvas, ramp, rgb

# How many values each takes, all equally often; 0: any number from 0 to 1, which says how far,
# from the first word to the second. None depends on another.
FACTORS = {"x": 0,              # left, right
           "y": 0,              # high, low
           "size": 0,           # small, large
           "yaw": 0,            # the features look left, right
           "light": 0,          # comes from the left, the right
           "backdrop": 0,       # orange, blue
           "skin": 0,           # dark, pale
           "hair": 0,           # black, brown, blond
           "smile": 0,          # sad, happy
           "mouth": 0,          # shut, open
           "Eyeglasses": 2, "Male": 2, "Mustache": 2, "Wearing_Hat": 2}     # 0 or 1
LABELS = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Eyeglasses", "Male", "Mouth_Slightly_Open",
          "Mustache", "Pale_Skin", "Smiling", "Wearing_Hat")


def labels(f: dict[str, Array]) -> Array:
    """The attributes in the order of LABELS, (N, 10) bool: switches, and others past a mark."""
    marks = {"Black_Hair": f["hair"] < 0.33, "Blond_Hair": f["hair"] >= 0.67,
             "Brown_Hair": (f["hair"] >= 0.33) & (f["hair"] < 0.67), "Pale_Skin": f["skin"] > 0.75,
             "Smiling": f["smile"] > 0.5, "Mouth_Slightly_Open": f["mouth"] > 0.5}
    return np.stack([marks[name] if name in marks else f[name] == 1 for name in LABELS], 1)


def paint(f: dict[str, Array], page: Canvas) -> None:
    """Draws a face in each picture, its factors (n, 1, 1), from the back to the front."""
    page.pixels[...] = ramp(f["backdrop"], "c8743c d8d0b8 3c6ca8") * (1.05 - 0.4 * page.y[:, None])
    # in units of half the head's height
    canvas = page.at(0.5 + 0.16 * (f["x"] - 0.5), 0.54 + 0.12 * (f["y"] - 0.5),
                     0.3 + 0.08 * f["size"])
    skin = ramp(f["skin"], "5a3520 a8703f d9a066 f0c39a fbe3d3")
    hair = ramp(f["hair"], "15100f 6b3f20 f0d58a")
    turn = 0.36 * (f["yaw"] - 0.5)      # of the features on the head
    head(canvas, f, skin, hair)
    features(canvas, f, skin, hair, turn)
    glasses_and_hat(canvas, f, turn)


def head(canvas: Canvas, f: dict[str, Array], skin: Array, hair: Array) -> None:
    long_hair = np.maximum(canvas.ellipse(0, 0.1, 1, 1.2), canvas.box(0, 0.7, 0.98, 0.7))
    canvas.paint(hair * 0.8, long_hair * (1 - f["Male"]))
    canvas.paint(skin * 0.78, canvas.box(0, 1.1, 0.34, 0.5))
    canvas.paint(rgb("4a5a5a"), canvas.ellipse(0, 2.05, 1.45, 0.85))
    cap = canvas.ellipse(0, -0.2, 0.88, 0.95)
    shade = 0.87 - 0.32 * canvas.x * (1 - 2 * f["light"])
    canvas.paint(hair, cap)
    canvas.paint(skin * shade[:, None], canvas.ellipse(0, 0.05, 0.75, 0.97))
    canvas.paint(hair, cap * (1 - canvas.below(-0.5)))


def features(canvas: Canvas, f: dict[str, Array], skin: Array, hair: Array, turn: Array) -> None:
    canvas.paint(skin * 0.72, canvas.ellipse(1.3 * turn, 0.2, 0.12, 0.16))
    for x in (-0.34, 0.34):
        canvas.paint(rgb("fbfbf8"), canvas.ellipse(x + turn, -0.08, 0.21, 0.14))
        canvas.paint(rgb("20303a"), canvas.ellipse(x + 1.4 * turn, -0.08, 0.11, 0.13))
        canvas.paint(hair * 0.5, canvas.bow(x + turn, -0.35, 0.25, -0.08, 0.06))
    cx, gap, rise = 1.1 * turn, 0.09 * f["mouth"], 0.6 * (f["smile"] - 0.4)
    canvas.paint(rgb("b8434a"), canvas.bow(cx, 0.6 + gap, 0.42, rise, 0.09 + gap))
    canvas.paint(rgb("381014"), canvas.bow(cx, 0.6 + gap, 0.34, rise, 0.02 + gap))
    canvas.paint(rgb("1c1412"), canvas.bow(cx, 0.41, 0.36, -0.12, 0.08) * f["Mustache"])


def glasses_and_hat(canvas: Canvas, f: dict[str, Array], turn: Array) -> None:
    canvas.paint(rgb("181820"), canvas.box(turn, -0.1, 0.12, 0.04) * f["Eyeglasses"])
    for x in (-0.36, 0.36):
        rim = (canvas.ellipse(x + turn, -0.08, 0.33, 0.28)
               - canvas.ellipse(x + turn, -0.08, 0.23, 0.18))
        canvas.paint(rgb("181820"), rim * f["Eyeglasses"])
    crown = canvas.ellipse(0, -0.55, 0.85, 0.8) * (1 - canvas.below(-0.55))
    canvas.paint(rgb("a03048"), crown * f["Wearing_Hat"])
    canvas.paint(rgb("702038"), canvas.box(0, -0.56, 1.15, 0.1) * f["Wearing_Hat"])
