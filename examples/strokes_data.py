"""Parts of Japanese characters as pen movements in the order of writing, and pictures of these, for strokes.py.

The package kanjivg ships 6413 characters stroke by stroke, with the parts that they are made of (KanjiVG, Ulrich Apel,
CC BY-SA 3.0). A part such as "tree" is drawn anew in every character that has it: narrow on the left, wide below.
"""

import functools
import re
from importlib.metadata import files
from xml.etree import ElementTree

import numpy
import torch
from fontTools.pens.recordingPen import RecordingPen
from fontTools.svgLib.path import parse_path
from torch import Tensor

# Parts that many characters have: what each means, and its strokes. In a few characters a part shares some with others.
LABELS = {
    "口": ("mouth", 3), "木": ("tree", 4), "日": ("sun", 4), "人": ("person", 2), "土": ("earth", 3), "月": ("moon", 4),
    "田": ("field", 5), "女": ("woman", 3), "大": ("big", 3), "火": ("fire", 4), "心": ("heart", 4), "山": ("hill", 3),
    "糸": ("thread", 6), "又": ("again", 2), "米": ("rice", 6), "立": ("stand", 5),
}  # fmt: skip
JUMP, DRAW, STOP = 0, 1, 2  # what the pen does: it moves without ink, it draws a line, the drawing is done
SPACING = 0.3  # between two points of a stroke; a drawing is 2 high or wide
PER_LABEL, FEWER = 150, 8  # drawings of each label at most, and how many times fewer for a quick look
SIDE, EXTENT, PEN = 16, 1.15, 0.1  # pixels of a picture a side, the coordinate of its border, the pen's width
SVG, KVG = "{http://www.w3.org/2000/svg}", "{http://kanjivg.tagaini.net}"


def flattened(path: str) -> numpy.ndarray:
    """Many points (n, 2) on a stroke, which is a chain of cubic curves in SVG; y points up."""
    pen, points = RecordingPen(), []
    parse_path(path, pen)
    t = numpy.linspace(0, 1, 13)[1:, None]
    for command, ends in pen.value:
        if command == "moveTo":
            points.append(numpy.array(ends))
        elif command == "curveTo":
            a, (b, c, d) = points[-1][-1], numpy.array(ends)
            points.append((1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d)
    return numpy.concatenate(points) * [1, -1]


def movements(strokes: list[numpy.ndarray]) -> Tensor:
    """Rows of dx, dy, x, y after the movement, and JUMP, DRAW or STOP; the pen starts in the middle of the drawing."""
    every = numpy.concatenate(strokes)
    low, high = every.min(0), every.max(0)
    points, kinds = [], []
    for stroke in strokes:
        stroke = (stroke - (low + high) / 2) * 2 / (high - low).max()
        along = numpy.concatenate([[0], numpy.linalg.norm(numpy.diff(stroke, axis=0), axis=1).cumsum()])
        places = numpy.linspace(0, along[-1], max(2, round(along[-1] / SPACING) + 1))
        points.append(numpy.stack([numpy.interp(places, along, part) for part in stroke.T], 1))
        kinds += [JUMP] + [DRAW] * (len(places) - 1)
    at = numpy.concatenate([*points, points[-1][-1:]])
    moved = numpy.diff(at, axis=0, prepend=numpy.zeros((1, 2)))
    return torch.tensor(numpy.concatenate([moved, at, numpy.array([*kinds, STOP])[:, None]], 1)).float()


@functools.cache
def drawings(quick: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Drawings as movements (N, T, 5), the last one repeated, their lengths (N,), STOP counted, and labels (N,).

    A label has one drawing of a character at most; `quick` reads fewer characters.
    """
    kanji = [file for file in files("kanjivg") or [] if re.fullmatch(r"kanji/0[4-9][0-9a-f]{3}\.svg", str(file))]
    by_label = {label: [] for label in LABELS}
    for file in kanji[:: FEWER if quick else 1]:
        text = file.read_text(encoding="utf-8")
        if not any(f'element="{label}"' in text for label in LABELS):
            continue  # to parse it takes longer
        parts = {}
        for group in ElementTree.fromstring(text).iter(f"{SVG}g"):
            if group.get(f"{KVG}part") is None:  # parts of parts are drawn in two places
                parts.setdefault(group.get(f"{KVG}element"), group)
        for label in LABELS.keys() & parts.keys():
            strokes = [flattened(stroke.get("d", "")) for stroke in parts[label].iter(f"{SVG}path")]
            if len(strokes) == LABELS[label][1]:
                by_label[label].append(strokes)
    rows, labels = [], []
    for number, all_drawings in enumerate(by_label.values()):
        some = numpy.unique(numpy.linspace(0, len(all_drawings) - 1, PER_LABEL).astype(int))
        rows += [movements(all_drawings[index]) for index in some]
        labels += [number] * len(some)
    lengths = torch.tensor([len(row) for row in rows])
    longest = int(lengths.max())
    padded = [torch.cat([row, row[-1:].expand(longest - len(row), -1)]) for row in rows]
    return torch.stack(padded), lengths, torch.tensor(labels)


def pictures(drawn: Tensor) -> Tensor:
    """Drawings (N, T, 5) as pictures (N, 256): exp(-(d / PEN)^2 / 2), d from a pixel to the nearest line."""
    side = torch.linspace(-EXTENT, EXTENT, SIDE)
    pixels = torch.cartesian_prod(-side, side).flip(1)  # x, y from the highest row
    moved, end = drawn[..., None, :2], drawn[..., None, 2:4]
    along = (((pixels - end) * moved).sum(-1) / moved.square().sum(-1).clamp(min=1e-9) + 1).clamp(0, 1)
    away = (pixels - end + moved * (1 - along[..., None])).square().sum(-1)
    away = torch.where(drawn[..., 4:] == DRAW, away, torch.inf).min(1).values
    return (-away / (2 * PEN**2)).exp()
