"""Pictures of the method's form are true to scale, say the same in words, and can be read."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from prilora_lite import linear_ranks
from prilora_lite.experiments.looks import FROZEN, LOOKS
from prilora_lite.teaching import pictures, plots
from tests.drawn import assert_legible, cut_off, legends_over_data, overlapping, written_on

SHAPES = [(128, 128, 8), (3072, 768, 8), (768, 3072, 96), (16, 16, 16), (2, 768, 1), (30522, 768, 4)]
STACKS = [linear_ranks(12, 4, 12), [15, 12, 9, 7, 4, 1], [8] * 24, [0, 3, 12, 1, 7], [3], list(range(1, 49))]


def parts(figure, name):
    """Patches of one kind, in the order in which they were drawn."""
    return [patch for patch in figure.axes[0].patches if patch.get_gid() == name]


def colours(patches):
    return {to_hex(patch.get_facecolor()).upper() for patch in patches}


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4000), st.integers(1, 4000), st.data())
def test_the_weights_of_a_layer_are_drawn_to_scale(m, n, data):
    rank = data.draw(st.integers(1, min(m, n)))
    figure, _ = pictures.draw_layer(m, n, rank, 2.0)
    sizes = {"W_0": (n, m), "A": (n, rank), "B": (rank, m)}
    units = []
    for name, (columns, rows) in sizes.items():
        (weight,) = parts(figure, name)
        units += [weight.get_width() / columns, weight.get_height() / rows]
    assert units == pytest.approx([units[0]] * 6)


def test_what_is_trained_is_in_colour_and_what_is_frozen_is_grey():
    figure, _ = pictures.draw_layer(128, 128, 8, 2.0)
    assert colours(parts(figure, "A") + parts(figure, "B") + parts(figure, "trained")) == {LOOKS["lora"].colour}
    assert colours(parts(figure, "W_0") + parts(figure, "frozen")) == {to_hex(FROZEN).upper()}


def test_a_layer_counts_its_weights_in_bars_and_words():
    figure, alt = pictures.draw_layer(128, 64, 8, 2.0)
    (frozen,), (trained,) = parts(figure, "frozen"), parts(figure, "trained")
    assert trained.get_width() / frozen.get_width() == pytest.approx(8 * (128 + 64) / (128 * 64))
    for number in ("8,192", "1,536", "18.8 %", "s = 2"):
        assert any(number in text for text in written_on(figure))
        assert number in alt
    for shape in ("128 x 64", "8 x 64", "128 x 8"):
        assert shape in alt


@pytest.mark.parametrize("rank", [0, 9])
def test_a_layer_refuses_a_rank_that_it_cannot_have(rank):
    with pytest.raises(ValueError, match="rank must be an integer from 1 to 8"):
        pictures.draw_layer(16, 8, rank, 1.0)


@pytest.mark.parametrize("ranks", STACKS)
def test_a_stack_has_an_adapter_for_each_layer_as_wide_as_its_rank(ranks):
    figure, _ = pictures.draw_stack(ranks, 100)
    layers, adapters = parts(figure, "layer"), parts(figure, "adapter")
    assert len(layers) == len(adapters) == len(ranks)
    unit = max(adapter.get_width() for adapter in adapters) / max(ranks)
    assert [adapter.get_width() for adapter in adapters] == pytest.approx([rank * unit for rank in ranks])
    assert len({layer.get_width() for layer in layers}) == 1


def test_the_first_layer_is_at_the_bottom():
    heights = [layer.get_y() for layer in parts(pictures.draw_stack([4, 8, 12], 100)[0], "layer")]
    assert all(lower < upper for lower, upper in pairwise(heights))


def test_a_stack_says_what_each_layer_costs_and_all_together():
    figure, alt = pictures.draw_stack([4, 8, 12], 1792)
    for text in ("7,168", "14,336", "21,504", "43,008 in all"):
        assert text in written_on(figure)
    for text in ("3 layers", "4, 8, 12", "24 units", "1,792", "43,008"):
        assert text in alt


@pytest.mark.parametrize(
    ("ranks", "words", "method"),
    [
        ([4, 8, 8, 12], "the ranks rise from 4 to 12", "ranks"),
        ([12, 4], "the ranks fall from 12 to 4", "ranks"),
        ([8, 8], "every rank is 8", "lora"),
        ([3], "1 layer, the first at the bottom: every rank is 3", "lora"),
        ([5, 0, 7], "the ranks lie between 0 and 7", "ranks"),
    ],
)
def test_a_stack_says_where_its_ranks_go(ranks, words, method):
    figure, alt = pictures.draw_stack(ranks, 100)
    assert words in alt
    assert colours(parts(figure, "adapter")) == {LOOKS[method].colour}


def test_a_stack_without_an_adapter_can_be_drawn():
    figure, alt = pictures.draw_stack([0, 0], 100)
    assert [adapter.get_width() for adapter in parts(figure, "adapter")] == [0, 0]
    assert "every rank is 0" in alt


def test_the_picture_of_the_method_has_the_ranks_as_adapters_and_half_of_each_row_zero():
    figure, alt = pictures.draw_method([4, 8, 12])
    widths = [adapter.get_width() for adapter in parts(figure, "adapter")]
    assert widths == pytest.approx([widths[0], 2 * widths[0], 3 * widths[0]])
    (weight,), zeros = parts(figure, "A"), parts(figure, "zero")
    rows = {round(zero.get_y(), 6): 0.0 for zero in zeros}
    for zero in zeros:
        rows[round(zero.get_y(), 6)] += zero.get_width() / weight.get_width()
    assert list(rows.values()) == pytest.approx([0.5] * len(rows))
    assert sum(zero.get_height() * zero.get_width() for zero in zeros) * 2 == pytest.approx(
        weight.get_width() * weight.get_height()
    )
    assert "Half of A is zero" in alt
    assert "from 4 to 12" in alt


@pytest.mark.parametrize("shape", SHAPES)
def test_a_layer_can_be_read(shape):
    assert_legible(pictures.draw_layer(*shape, 0.125)[0])


@pytest.mark.parametrize("ranks", STACKS)
def test_a_stack_can_be_read(ranks):
    assert_legible(pictures.draw_stack(ranks, 13824)[0])


@pytest.mark.parametrize("ranks", STACKS[:2])
def test_the_picture_of_the_method_can_be_read(ranks):
    assert_legible(pictures.draw_method(ranks)[0])


def test_the_same_data_give_the_same_picture_and_text():
    for draw in (lambda: pictures.draw_method([4, 8, 12]), lambda: pictures.draw_layer(128, 128, 8, 2.0)):
        (one, first), (two, second) = draw(), draw()
        assert plots.to_png(one) == plots.to_png(two)
        assert first == second


def test_faults_of_legibility_are_found():
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], label="a line")
    axes.legend()
    figure.text(0.5, 0.5, "one")
    figure.text(0.5, 0.5, "two")
    figure.text(0.9, 0.02, "a text that is cut off at the edge")
    assert overlapping(figure) == [("one", "two")]
    assert cut_off(figure) == ["a text that is cut off at the edge"]
    assert len(legends_over_data(figure)) == 1
