"""Figures are functions: each draws its data, over the whole range that a widget offers."""

import io
from itertools import product

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prilora_lite import budget_ranks
from prilora_lite.teaching import plots, recordings


def texts(figure):
    return [axes.get_xlabel() + axes.get_ylabel() + axes.get_title() for axes in figure.axes]


def test_the_truncation_errors_are_those_of_the_truncated_matrix():
    update = np.random.default_rng(0).normal(size=(7, 5))
    u, s, v = np.linalg.svd(update, full_matrices=False)
    errors = plots.truncation_errors(s)
    for rank in range(1, 6):
        left = update - (u[:, :rank] * s[:rank]) @ v[:rank]
        assert errors[rank - 1] == pytest.approx(np.linalg.norm(left) / np.linalg.norm(update), abs=1e-7)


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_the_spectrum_marks_what_is_kept_and_the_error(rank):
    values = np.linalg.svd(np.random.default_rng(0).normal(size=(7, 5)), compute_uv=False)
    left, right = plots.plot_spectrum(values, rank).axes
    assert len(left.lines[0].get_xdata()) == rank
    assert right.lines[1].get_ydata()[0] == pytest.approx(plots.truncation_errors(values)[rank - 1])


@settings(max_examples=15)
@given(st.integers(1, 24), st.integers(8, 16), st.integers(-14, 14))
def test_the_schedule_draws_its_ranks_and_its_cost(num_layers, mean, slope):
    ranks = budget_ranks(num_layers, mean, slope)
    left, right = plots.plot_schedule(ranks, mean, 100).axes
    assert [bar.get_height() for bar in left.patches] == ranks
    assert right.patches[0].get_height() == pytest.approx(sum(ranks) * 0.1)
    assert right.get_ylabel() == "trainable parameters (thousands)"


def test_importance_shows_the_four_things_that_decide():
    generator = np.random.default_rng(0)
    lora_A, mean_square = generator.normal(size=(3, 6)), generator.random(6)
    scores = np.abs(lora_A) * np.sqrt(mean_square)
    keep = scores > np.median(scores)
    norm, size, importance, mask, *_ = plots.plot_importance(lora_A, mean_square, scores, keep).axes
    assert norm.patches[0].get_data().values == pytest.approx(np.sqrt(mean_square))
    assert size.images[0].get_array().tolist() == np.abs(lora_A).tolist()
    assert importance.images[0].get_array().tolist() == scores.tolist()
    assert (mask.images[0].get_array() == ~keep).all()
    assert "50%" in mask.get_title()
    assert all(axes.get_ylabel() for axes in (norm, size, importance, mask))


@pytest.mark.parametrize("step", [None, 1, 19, 20, 39, 40, 125])
def test_pruning_shows_the_mask_of_the_last_prune_up_to_a_step(step):
    trace = recordings.load_trace(0.5, 20)
    losses, mass, mask, churn = plots.plot_pruning(trace, step).axes
    assert losses.lines[0].get_ydata().tolist() == trace["losses"]
    assert mass.lines[0].get_ydata() == pytest.approx(100 * np.array(trace["sparsity"]))
    assert list(mass.lines[1].get_xdata()) == list(trace["masks"])
    assert mass.lines[1].get_ydata() == pytest.approx([100 * share for share in trace["mass"].values()])
    assert churn.lines[0].get_ydata() == pytest.approx([100 * share for share in trace["churn"].values()])
    prunes = [at for at in trace["masks"] if step is None or at <= step]
    if prunes:
        assert (mask.images[0].get_array() == ~trace["masks"][prunes[-1]]).all()
        assert f"after step {prunes[-1]}" in mask.get_title()
    else:
        assert not mask.images


def test_the_picture_of_the_method_has_the_ranks_as_bars_and_half_of_a_zero():
    layer, stack = plots.plot_method([4, 8, 12]).axes
    frozen, ranks = stack.containers
    assert [bar.get_width() for bar in ranks] == [4, 8, 12]
    assert len({bar.get_width() for bar in frozen}) == 1
    cells = [patch for patch in layer.patches if patch.get_width() == 0.5]
    white = [patch for patch in cells if patch.get_facecolor() == (1.0, 1.0, 1.0, 1.0)]
    for row in {patch.get_y() for patch in cells}:
        assert sum(p.get_y() == row for p in white) * 2 == sum(p.get_y() == row for p in cells)


def test_layers_draws_every_seed_its_mean_and_the_reference():
    runs = recordings.load("layers")
    names = ["bottom third", "top third"]
    for axes, task in zip(plots.plot_layers(runs, names).axes, ("pocket-cola", "pocket-rte"), strict=True):
        here = 100 * runs[runs.task == task].set_index("name")["accuracy"]
        ends = [bar.get_x() + bar.get_width() for bar in axes.patches]
        assert ends == pytest.approx([here[name].mean() for name in names])
        assert {bar.get_x() for bar in axes.patches} == {here["head only"].mean()}
        assert axes.lines[0].get_xdata() == pytest.approx(here["bottom third"])
        assert axes.lines[-1].get_xdata()[0] == pytest.approx(here["head only"].mean())


def grid_of_runs():
    """Two tasks, five slopes, two ratios, three seeds; the value says which cell it is."""
    rows = []
    for task, slope, ratio, seed in product(("a", "b"), (-8, -4, 0, 4, 8), (0.0, 0.5), range(3)):
        config = {"first_rank": 8 - slope // 2, "last_rank": 8 + slope // 2, "ratio": ratio, "scaling": "layer"}
        config |= {"layers": None, "interval": 40, "importance": "magnitude_input"}
        value = 0.5 + slope / 100 + ratio / 10 + (0.2 if task == "b" else 0) + seed / 1000
        rows.append({"task": task, "method": f"{slope} {ratio}", "seed": seed, "metric": "m", "value": value} | config)
    return pd.DataFrame(rows)


def test_the_grid_draws_means_and_t_intervals_along_both_axes():
    left, right = plots.plot_grid(grid_of_runs(), 8, 0.5).axes
    a, b = (container.lines[0] for container in left.containers)
    assert a.get_xdata().tolist() == [-8, -4, 0, 4, 8]
    assert a.get_ydata() == pytest.approx([47.1, 51.1, 55.1, 59.1, 63.1])
    assert b.get_ydata() == pytest.approx((a.get_ydata() + 20).tolist())
    (bar, *_) = left.containers[0].lines[2][0].get_segments()
    assert bar[1, 1] - bar[0, 1] == pytest.approx(2 * 4.302653 * 0.1 / 3**0.5)  # t of two degrees of freedom
    assert right.containers[0].lines[0].get_xdata().tolist() == [0, 0.5]
    assert right.containers[0].lines[0].get_ydata() == pytest.approx([58.1, 63.1])


def test_the_grid_leaves_out_runs_that_differ_in_more():
    runs = grid_of_runs()
    odd = runs.iloc[:4].copy()
    odd[["importance", "ratio", "value"]] = [["random", 0.5, 0.0]] * 4
    layers = runs.iloc[:4].assign(layers="0 1", value=0.0)
    small = runs.iloc[:4].assign(first_rank=1, last_rank=1, value=0.0)
    with_more = pd.concat([runs, odd, layers, small], ignore_index=True)
    assert plots.grid_values(with_more) == plots.grid_values(runs) == ([-8, -4, 0, 4, 8], [0.0, 0.5])
    assert plots.grid_cells(with_more)["value"].tolist() == runs["value"].tolist()


@pytest.mark.parametrize(("slope", "ratio", "message"), [(3, 0.5, "slope 3; there are -8"), (8, 0.9, "ratio 0.9")])
def test_the_grid_names_what_there_is(slope, ratio, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_grid(grid_of_runs(), slope, ratio)


def four_ideas():
    values = {"lora": 0.5, "ranks": 0.6, "pruning": 0.4, "prilora": 0.7}
    rows = [
        {"task": "a", "method": method, "seed": seed, "metric": "m", "value": value + seed / 100}
        | {"adapter_nonzero": 1000 if method in ("lora", "ranks") else 750, "head_nonzero": 100}
        for method, value in values.items()
        for seed in (0, 1)
    ]
    return pd.DataFrame(rows)


def test_the_ideas_are_two_lines_from_unpruned_to_pruned():
    (axes,) = plots.plot_ideas(four_ideas()).axes
    flat, rising = (container.lines[0].get_ydata() for container in axes.containers)
    assert flat == pytest.approx([50.5, 40.5])
    assert rising == pytest.approx([60.5, 70.5])


def test_the_cost_is_what_is_not_zero_in_adapter_and_head():
    (axes,) = plots.plot_cost(four_ideas(), {"prilora": "PRILoRA"}).axes
    points = {container.get_label(): container.lines[0].get_xydata().tolist() for container in axes.containers}
    assert list(points) == ["PRILoRA", "lora", "ranks", "pruning"]
    assert points["PRILoRA"] == [pytest.approx([850, 70.5])]
    assert points["lora"] == [pytest.approx([1100, 50.5])]


def marker_fills(axes):
    """Fill of every marker that is drawn, by place: of two the one on top."""
    fills = {}
    for line in sorted(axes.lines, key=lambda line: line.get_zorder()):
        if line.get_marker() in plots.MARKERS:
            fills |= {tuple(point): line.get_markerfacecolor() for point in line.get_xydata().round(2).tolist()}
    return fills


@pytest.mark.parametrize("plot", [plots.plot_ideas, plots.plot_cost])
def test_a_method_of_one_seed_is_hollow(plot):
    runs = four_ideas()
    (axes,) = plot(runs[(runs.method != "ranks") | (runs.seed == 0)]).axes
    hollow = [place for place, fill in marker_fills(axes).items() if fill == "white"]
    assert [value for _, value in hollow] == [60.0]


def test_a_grid_is_first_shown_at_prilora():
    assert plots.grid_default(grid_of_runs()) == (8, 0.5)


def test_a_grid_without_prilora_is_first_shown_at_its_largest():
    runs = grid_of_runs()
    assert plots.grid_default(runs[(runs.last_rank < 12) & (runs.ratio == 0)]) == (4, 0.0)


def test_all_axes_are_labelled():
    figures = [
        plots.plot_spectrum(np.arange(4.0, 0, -1), 2),
        plots.plot_schedule([4, 8, 12], 8, 100),
        plots.plot_layers(recordings.load("layers"), ["flat"]),
        plots.plot_pruning(recordings.load_trace(0.5, 20)),
    ]
    for figure in figures:
        assert all(texts(figure))


def test_a_png_is_opaque_so_that_it_can_be_read_on_a_dark_page():
    png = plots.to_png(plots.plot_schedule([4, 8, 12], 8, 100))
    pixels = matplotlib.image.imread(io.BytesIO(png))
    assert pixels[0, 0].tolist() == [1, 1, 1, 1]
    assert (pixels[..., 3] == 1).all()
