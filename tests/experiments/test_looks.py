"""Colours of methods are told apart by the colour-blind and in print, and a method has the same one everywhere."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from prilora_lite.experiments import looks
from prilora_lite.experiments.methods import CONTRASTS, METHODS

# Machado, Oliveira & Fernandes 2009, A physiologically-based model for simulation of color vision deficiency, severity
# 1.0, on linear RGB
VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
COLOURS = sorted({look.colour for look in looks.LOOKS.values()})


def lab(colour, vision="normal"):
    """CIELAB of a colour as it is seen: lightness from 0 to 100, and two axes of hue; 2.3 is just noticeable."""
    encoded = np.array(to_rgb(colour))
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    x, y, z = TO_XYZ @ np.clip(np.array(VISION[vision]) @ linear, 0, 1) / TO_XYZ.sum(1)
    fx, fy, fz = (np.cbrt(t) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116 for t in (x, y, z))
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


def test_the_simulation_confuses_what_the_colour_blind_confuse():
    """A red and a green of one lightness, far apart for most: else the tests below would show nothing."""
    red, green = "#C8553D", "#7E8B3A"
    normal, deuteranopia = (np.linalg.norm(lab(red, v) - lab(green, v)) for v in ("normal", "deuteranopia"))
    assert normal > 50
    assert deuteranopia < 25


@pytest.mark.parametrize("vision", VISION)
def test_any_two_colours_are_told_apart(vision):
    for one, two in combinations(COLOURS, 2):
        assert np.linalg.norm(lab(one, vision) - lab(two, vision)) > 25, f"{one} and {two}"


def test_any_two_colours_are_two_greys_in_print():
    for one, two in combinations(COLOURS, 2):
        assert abs(lab(one)[0] - lab(two)[0]) > 7, f"{one} and {two}"


@pytest.mark.parametrize("method", ["lora", "ranks", "pruning", "prilora"])
@pytest.mark.parametrize("vision", VISION)
def test_what_is_trained_is_told_from_what_is_frozen(method, vision):
    colour = looks.LOOKS[method].colour
    assert np.linalg.norm(lab(colour, vision) - lab(looks.FROZEN, vision)) > 25
    assert abs(lab(colour)[0] - lab(looks.FROZEN)[0]) > 7


def test_each_method_has_a_look_of_its_own():
    assert set(looks.LOOKS) == set(METHODS)
    assert len(set(looks.LOOKS.values())) == len(METHODS)


def test_the_usual_methods_are_told_apart_by_their_markers_alone():
    usual = [looks.LOOKS[name].marker for name in METHODS if name not in CONTRASTS]
    assert len(set(usual)) == len(usual)


def test_a_configuration_has_the_colour_of_its_ideas_and_a_marker_of_its_own():
    rows = [("lora", 8, 8, 0.0), ("a", 12, 4, 0.0), ("b", 8, 8, 0.25), ("c", 6, 10, 0.5), ("d", 4, 4, 0.0)]
    runs = pd.DataFrame(rows, columns=["method", "first_rank", "last_rank", "ratio"])
    found = looks.looks_of(pd.concat([runs, runs]))
    assert {name: look.colour for name, look in found.items()} == {
        "lora": looks.BLUE, "a": looks.GREEN, "b": looks.PURPLE, "c": looks.VERMILION, "d": looks.BLUE,
    }  # fmt: skip
    assert found["lora"] == looks.LOOKS["lora"]
    assert len({look.marker for look in found.values()}) == 5


def test_listed_ranks_that_differ_have_the_colour_of_ranks_without_others_beside_them():
    runs = pd.DataFrame({"method": ["a", "b"], "ranks": ["4 4 12 12", "8 8"], "ratio": [0.0, 0.0]})
    found = looks.looks_of(runs.assign(first_rank=None, last_rank=None))
    assert [found[name].colour for name in ("a", "b")] == [looks.GREEN, looks.BLUE]


def test_a_method_without_configuration_or_look_has_no_methods_colour():
    runs = pd.DataFrame({"method": ["x"], "first_rank": [None], "last_rank": [None], "ratio": [None]})
    assert looks.looks_of(runs)["x"].colour not in COLOURS


@pytest.mark.parametrize(("ranks", "method"), [([8, 8], "lora"), ([4, 12], "ranks"), ([12, 4], "ranks"), ([3], "lora")])
def test_a_schedule_is_lora_where_it_is_flat(ranks, method):
    assert looks.schedule_colour(ranks) == looks.LOOKS[method].colour
