"""Pictures of pruning show what the library computes, say the same in words, and can be read."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from prilora_lite.experiments.looks import GREY, LOOKS
from prilora_lite.teaching import plots, recordings
from tests.drawn import assert_legible, written_on

BATCH = np.array(
    [
        [[1, 2, 0, -1], [3, 0, 1, 1], [0, 2, -1, 2], [2, -2, 1, 0]],
        [[1, 1, 3, 0], [-1, 2, 0, 2], [5, 9, 4, 7], [5, 9, 4, 7]],
    ],
    dtype=float,
)
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
ROW = np.array([0.5, -0.2, 0.1, 0.8, -0.4, 0.3, -0.6, 0.2])
MEAN_SQUARE = np.array([1, 16, 4, 0.25, 1, 4, 9, 0.25])  # products .5 .8 .2 .4 .4 .6 1.8 .1
TRACES = [(0.5, 20), (0.25, 5), (0.9, 125)]


@pytest.fixture(scope="module")
def toy():
    return plots.toy_trace(4)


def hatched(figure):
    return [patch for patch in figure.axes[0].patches if patch.get_hatch()]


def numbers(values):
    return ", ".join(f"{value:.3g}" for value in values)


# Padding


def test_the_mean_square_is_that_of_the_real_tokens_alone():
    figure, alt = plots.draw_padding(BATCH, MASK)
    q = (BATCH[MASK == 1] ** 2).mean(0)
    for value in q:
        assert f"{value:.3g}" in written_on(figure)
    assert numbers(q) in alt
    assert "Sums by feature: 16, 17, 12, 10." in alt
    assert "6 real tokens" in alt


def test_each_padded_place_is_hatched_in_the_input_the_mask_and_the_squares():
    assert len(hatched(plots.draw_padding(BATCH, MASK)[0])) == 2 * (4 + 1 + 4)


def test_nothing_is_hatched_without_padding():
    figure, alt = plots.draw_padding(BATCH, np.ones((2, 4)))
    assert not hatched(figure)
    assert "padding" not in written_on(figure)
    assert "8 real tokens" in alt


def test_nan_in_padded_places_changes_nothing_but_their_cells():
    spoilt = BATCH.copy()
    spoilt[MASK == 0] = np.nan
    (figure, alt), (_, clean) = plots.draw_padding(spoilt, MASK), plots.draw_padding(BATCH, MASK)
    assert alt == clean
    assert written_on(figure).count("NaN") == 8


@pytest.mark.parametrize("mask", [np.ones((2, 3)), np.zeros((2, 4))])
def test_a_mask_that_does_not_fit_is_refused(mask):
    with pytest.raises(ValueError, match=r"a mask of shape \(2, 4\) with a real token"):
        plots.draw_padding(BATCH, mask)


# A row


def test_the_bars_of_a_row_are_sizes_norms_products_and_what_was():
    figure, _ = plots.draw_row(ROW, MEAN_SQUARE, 0.5)
    sizes, norms = np.abs(ROW), np.sqrt(MEAN_SQUARE)
    for axes, values in zip(figure.axes, (sizes, norms, sizes * norms, sizes), strict=True):
        assert [bar.get_height() for bar in axes.patches] == pytest.approx(values)


@pytest.mark.parametrize(("ratio", "pruned"), [(0.0, []), (0.25, [2, 7]), (0.5, [2, 3, 4, 7]), (0.3, [2, 7])])
def test_what_is_pruned_is_hatched_and_zero_afterwards(ratio, pruned):
    figure, alt = plots.draw_row(ROW, MEAN_SQUARE, ratio)
    for axes in figure.axes[2:]:
        assert [j for j, bar in enumerate(axes.patches) if bar.get_hatch()] == pruned
    assert not any(bar.get_hatch() for axes in figure.axes[:2] for bar in axes.patches)
    after = [text.get_text() for text in figure.axes[3].texts]
    assert after == [f"{abs(a):.3g}" + (" \u2192 0" if j in pruned else "") for j, a in enumerate(ROW)]
    assert f"ratio {ratio:g}: k = {len(pruned)} of 8 entries are pruned" in written_on(figure)
    assert f"{len(pruned)} of them are pruned" in alt


def test_a_row_is_told_in_numbers():
    _, alt = plots.draw_row(ROW, MEAN_SQUARE, 0.5)
    for values in (np.abs(ROW), np.sqrt(MEAN_SQUARE), np.abs(ROW) * np.sqrt(MEAN_SQUARE)):
        assert numbers(values) in alt
    assert "j = 0, 1, 5, 6;" in alt


def test_a_long_row_has_no_numbers_on_its_bars():
    figure, alt = plots.draw_row(np.linspace(-1, 1, 128), np.ones(128), 0.5)
    assert not any(axes.texts for axes in figure.axes)
    assert "128 entries; 64 of them" in alt


# A run


@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_a_recorded_run_shows_who_survived_each_prune(ratio):
    trace = recordings.load_trace(ratio, 20)
    figure, _ = plots.draw_prune_and_regrow(trace)
    upper = figure.axes[0]
    assert len(upper.collections) == 6
    for label, dots in zip(upper.get_yticklabels(), upper.collections, strict=True):
        j = int(label.get_text().split(",")[1].strip("}$"))
        filled = [to_hex(colour) != "#ffffff" for colour in dots.get_facecolors()]
        assert filled == [mask[0, j] for mask in trace["masks"].values()]


@pytest.mark.parametrize("trace", [(0.5, 20), (0.25, 5), "toy"])
def test_a_run_shows_exact_zeros_and_removed_mass_at_each_prune(trace, toy):
    trace = toy if trace == "toy" else recordings.load_trace(*trace)
    figure, alt = plots.draw_prune_and_regrow(trace)
    lines = {line.get_label(): line for line in figure.axes[1].lines}
    zeros, mass = lines["exact zeros"], lines["share of the squared norm that the prune removes"]
    assert list(zeros.get_xdata()) == list(mass.get_xdata()) == list(trace["mass"])
    assert zeros.get_ydata() == pytest.approx([100 * trace["sparsity"][at - 1] for at in trace["mass"]])
    assert mass.get_ydata() == pytest.approx([100 * share for share in trace["mass"].values()])
    assert numbers(mass.get_ydata()) in alt
    assert f"{len(trace['sparsity'])} steps" in alt


def test_entries_of_each_fate_are_shown_and_told(toy):
    figure, alt = plots.draw_prune_and_regrow(toy)
    entries = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 120]
    looks = sorted((line.get_color(), line.get_linestyle()) for line in entries)
    moved = [(LOOKS["lora"].colour, "--"), (LOOKS["ranks"].colour, "-.")]
    assert looks == sorted([(LOOKS["pruning"].colour, "-"), (GREY, "-")] * 2 + moved)
    assert "1 zeroed in the end, 1 kept in the end, 2 always zeroed, 2 always kept" in alt


def test_what_is_zeroed_at_every_prune_grows_again_in_between(toy):
    figure, _ = plots.draw_prune_and_regrow(toy)
    entries = [line.get_ydata() for line in figure.axes[0].lines if line.get_color() == GREY]
    assert len(entries) == 2
    for sizes in entries:
        for at in (20, 40, 60, 80, 100, 120):
            assert sizes[at - 1] == 0
            assert sizes[at - 2] > 0


def test_a_run_without_a_prune_is_refused():
    with pytest.raises(ValueError, match="nothing was pruned"):
        plots.draw_prune_and_regrow(recordings.load_trace(0.0, 5))


def test_the_toy_run_follows_from_its_seed_alone(toy):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    again = plots.toy_trace(4)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(again["row"], toy["row"])
    assert again["mass"] == toy["mass"]
    assert not np.array_equal(plots.toy_trace(3)["row"], toy["row"])


def test_the_toy_run_has_half_of_each_row_zero_after_a_prune(toy):
    assert list(toy["masks"]) == list(toy["mass"]) == [20, 40, 60, 80, 100, 120]
    for at, mask in toy["masks"].items():
        assert (mask.sum(1) == 6).all()
        assert ((toy["row"][at - 1] != 0) == mask[0]).all()


# All


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.draw_padding(BATCH, MASK),
        lambda: plots.draw_padding(np.random.default_rng(0).normal(size=(3, 2, 6)), np.array([[1, 1], [1, 0], [1, 0]])),
        lambda: plots.draw_padding(BATCH[:, :3, :2], MASK[:, :3]),
        lambda: plots.draw_row(ROW, MEAN_SQUARE, 0.5),
        lambda: plots.draw_row(np.linspace(-1, 1, 16), np.linspace(0.01, 1, 16), 0.25),
        lambda: plots.draw_prune_and_regrow(plots.toy_trace(4)),
        *(lambda pair=pair: plots.draw_prune_and_regrow(recordings.load_trace(*pair)) for pair in TRACES),
    ],
)
def test_it_can_be_read(draw):
    assert_legible(draw()[0])


def test_what_is_given_is_not_changed(toy):
    batch, mask, row, mean_square, trace = (deepcopy(value) for value in (BATCH, MASK, ROW, MEAN_SQUARE, toy))
    plots.draw_padding(batch, mask)
    plots.draw_row(row, mean_square, 0.5)
    plots.draw_prune_and_regrow(trace)
    for given, was in (
        (batch, BATCH),
        (mask, MASK),
        (row, ROW),
        (mean_square, MEAN_SQUARE),
        (trace["row"], toy["row"]),
    ):
        assert np.array_equal(given, was)
    assert {name: trace[name] for name in ("sparsity", "mass")} == {name: toy[name] for name in ("sparsity", "mass")}


def test_it_leaves_pyplot_alone():
    from matplotlib import pyplot

    plots.draw_row(ROW, MEAN_SQUARE, 0.5)
    plots.draw_padding(BATCH, MASK)
    assert pyplot.get_fignums() == []
