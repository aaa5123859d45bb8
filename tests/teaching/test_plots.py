"""Figures are functions: each draws its data, over the whole range that a widget offers."""

import io
import sys

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from prilora_lite import budget_ranks
from prilora_lite.experiments import figures
from prilora_lite.experiments.looks import LOOKS
from prilora_lite.teaching import pictures, plots, pruning_pictures, recordings
from tests.drawn import assert_legible
from tests.environments import call


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
    upper, lower = plots.plot_schedule(ranks, mean, 100).axes
    assert [bar.get_height() for bar in upper.patches] == ranks
    assert [text.get_text() for text in upper.texts[: len(ranks)]] == list(map(str, ranks))
    assert [bar.get_width() for bar in lower.patches] == pytest.approx([sum(ranks) * 0.1, mean * num_layers * 0.1])
    assert lower.get_xlabel() == "trainable parameters (thousands)"


def test_the_cost_of_a_schedule_takes_less_than_a_third_of_the_height():
    upper, lower = plots.plot_schedule([4, 8, 12], 8, 100).axes
    assert lower.get_position().height < upper.get_position().height / 2


def test_a_flat_schedule_has_the_colour_of_lora():
    for ranks, method in (([8, 8], "lora"), ([4, 12], "ranks")):
        upper, lower = plots.plot_schedule(ranks, 8, 100).axes
        shown = {to_hex(bar.get_facecolor()).upper() for bar in [*upper.patches, lower.patches[0]]}
        assert shown == {LOOKS[method].colour}
        assert to_hex(lower.patches[1].get_facecolor()).upper() == LOOKS["lora"].colour


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


@pytest.mark.parametrize(("ratio", "interval"), [(0.25, 5), (0.5, 20), (0.9, 20)])
def test_churn_fills_its_panel(ratio, interval):
    """Few of the zeros are new: on an axis to 100 % the line would lie flat."""
    trace = recordings.load_trace(ratio, interval)
    churn = plots.plot_pruning(trace).axes[3]
    assert churn.get_ylim()[0] == 0
    assert churn.get_ylim()[1] <= max(0.12, 1.2 * 100 * max(trace["churn"].values()))


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


def test_ranks_that_differ_have_the_colour_of_ranks():
    axes = plots.plot_layers(recordings.load("layers"), ["falling", "flat", "rising", "top third"]).axes[0]
    shown = [to_hex(bar.get_facecolor()).upper() for bar in axes.patches]
    assert shown == [LOOKS[method].colour for method in ("ranks", "lora", "ranks", "lora")]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.plot_spectrum(np.arange(128.0, 0, -1), 8),
        lambda: plots.plot_schedule(budget_ranks(12, 8, 8), 8, 1792),
        lambda: plots.plot_schedule(budget_ranks(24, 8, -14), 8, 1792),
        lambda: plots.plot_schedule([8] * 12, 8, 1792),
        lambda: plots.plot_layers(recordings.load("layers"), [f"layer {layer}" for layer in range(12)]),
        lambda: plots.plot_layers(recordings.load("layers"), ["falling", "flat", "rising"]),
        lambda: plots.plot_layers(recordings.load("layers_minilm"), ["top third", "flat"]),
        lambda: plots.plot_pruning(recordings.load_trace(0.5, 20)),
        lambda: plots.plot_pruning(recordings.load_trace(0.9, 5), 60),
        lambda: plots.plot_pruning(recordings.load_trace(0.0, 5)),
        lambda: plots.plot_ideas(recordings.load_study("pocket_grid")),
        lambda: plots.plot_grid(recordings.load_study("pocket_grid"), 8, 0.5),
        lambda: plots.plot_cost(recordings.load_study("minilm_glue").query("group == 'minilm'")),
    ],
)  # fmt: skip
def test_no_text_lies_over_another_and_no_legend_over_data(draw):
    assert_legible(draw())


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


def test_the_figures_of_results_and_the_pictures_are_offered_too():
    """For the notebooks: one module for all figures."""
    for module in (figures, pictures, pruning_pictures):
        for name in vars(module):
            if name.startswith(("plot_", "grid_", "draw_", "toy_")):
                assert getattr(plots, name) is getattr(module, name)
                assert name in plots.__all__


def test_the_first_picture_of_a_page_waits_for_none_of_the_libraries_that_train(tmp_path):
    code = "import sys; from prilora_lite import plots; print(*{'transformers', 'peft', 'datasets'} & set(sys.modules))"
    assert call(sys.executable, "-c", code, cwd=tmp_path).strip() == ""
