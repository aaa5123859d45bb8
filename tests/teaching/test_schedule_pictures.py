"""Pictures of a schedule show the line, its ranks and its scalings, say the same in words, and can be read."""

import pytest

from prilora_lite import PRILoRAConfig, linear_ranks
from prilora_lite.teaching import plots
from tests.drawn import assert_legible, legends_over_data, written_on

DRAWN = [
    lambda: plots.draw_rounding(4, 4, 12),
    lambda: plots.draw_rounding(5, 2, 4),
    lambda: plots.draw_rounding(6, 12, 4),
    lambda: plots.draw_scalings(linear_ranks(12, 4, 12), 16),
    lambda: plots.draw_scalings([8] * 6, 16),
    lambda: plots.draw_scalings(linear_ranks(24, 12, 4), 32),
]


@pytest.mark.parametrize("draw", DRAWN)
def test_it_can_be_read(draw):
    figure, alt = draw()
    assert_legible(figure)
    assert not legends_over_data(figure)
    assert alt


def test_bars_are_the_ranks_and_points_the_exact_line():
    figure, alt = plots.draw_rounding(4, 4, 12)
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == [4, 7, 9, 12]
    assert list(axes.lines[0].get_ydata()) == pytest.approx([4, 20 / 3, 28 / 3, 12])
    assert {"6.67 → 7", "9.33 → 9"} <= set(written_on(figure))
    assert "6.67 to 7, 9.33 to 9" in alt


@pytest.mark.parametrize("arguments", [(1, 4, 12), (4, 0, 12)])
def test_a_line_that_is_none_is_refused(arguments):
    with pytest.raises(ValueError, match=r"two layers|1 is the least"):
        plots.draw_rounding(*arguments)


@pytest.mark.parametrize("ranks", [linear_ranks(12, 4, 12), linear_ranks(6, 9, 3)])
def test_lines_are_the_scalings_of_the_library_and_their_product_with_the_rank(ranks):
    figure, alt = plots.draw_scalings(ranks, 16)
    for place, rule in enumerate(("layer", "sqrt", "mean")):
        s = PRILoRAConfig(alpha=16, scaling=rule).scalings(ranks)
        single, whole = (axes.lines[place] for axes in figure.axes)
        assert single.get_label() == f"rule: {rule}"
        assert list(single.get_ydata()) == pytest.approx(s)
        assert list(whole.get_ydata()) == pytest.approx([a * b for a, b in zip(s, ranks, strict=True)])
        assert f"{rule}: s from {s[0]:.3g} to {s[-1]:.3g}" in alt
