"""Figures of results draw the runs that they are given."""

from itertools import product

import pandas as pd
import pytest

from prilora_lite.experiments import figures, reporting
from tests.experiments.test_study import record


def test_the_figure_shows_every_run_and_every_mean():
    values = {("lora", 0): 0.4, ("lora", 1): 0.6, ("head", 0): 0.1}
    frame = reporting.to_dataframe([record(m, seed=s, value=v) for (m, s), v in values.items()])
    figure = figures.plot_ablation(frame, {"head": "head only", "lora": "LoRA"})
    (axes,) = figure.axes
    dots = [line.get_xdata().tolist() for line in axes.lines if line.get_marker() == "o"]
    bars = [line.get_xdata().tolist() for line in axes.lines if line.get_marker() != "o"]
    assert dots == [pytest.approx([10]), pytest.approx([40, 60])]
    assert bars == [pytest.approx([10, 10]), pytest.approx([50, 50])]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["head only", "LoRA"]
    assert axes.get_xlabel() == "matthews on validation (%)"


def test_the_figure_draws_each_difference_its_interval_and_its_margin():
    answers = pd.DataFrame(
        {
            "question": ["a", "b", "c"], "contrast": ["a", "b", "c"], "tasks": "pocket-rte", "margin": [1.0, 2.0, 1.0],
            "difference": [0.1, 3.0, 1.0], "low": [-0.5, 2.0, -1.0], "high": [0.7, 4.0, 3.0],
            "verdict": ["equal within 1 point", "difference", "not decided: it would take 9 seeds"],
        }
    )  # fmt: skip
    axes = figures.plot_answers(answers).axes[0]
    assert [(bar.get_x(), bar.get_width()) for bar in axes.patches] == [(-1, 2), (-2, 4), (-1, 2)]
    lines = [list(line.get_xdata()) for line in axes.lines if line.get_linestyle() == "-"]
    assert lines[:3] == [[-0.5, 0.7], [2.0, 4.0], [-1.0, 3.0]]
    assert len({line.get_marker() for line in axes.lines if line.get_marker() != "None"}) == 3


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
    left, right = figures.plot_grid(grid_of_runs(), 8, 0.5).axes
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
    schedule = runs.iloc[:4].assign(ranks="steep", value=0.0)
    with_more = pd.concat([runs.assign(ranks="linear"), odd, layers, small, schedule], ignore_index=True)
    assert figures.grid_values(with_more) == figures.grid_values(runs) == ([-8, -4, 0, 4, 8], [0.0, 0.5])
    assert figures.grid_cells(with_more)["value"].tolist() == runs["value"].tolist()


@pytest.mark.parametrize(("slope", "ratio", "message"), [(3, 0.5, "slope 3; there are -8"), (8, 0.9, "ratio 0.9")])
def test_the_grid_names_what_there_is(slope, ratio, message):
    with pytest.raises(ValueError, match=message):
        figures.plot_grid(grid_of_runs(), slope, ratio)


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
    (axes,) = figures.plot_ideas(four_ideas()).axes
    flat, rising = (container.lines[0].get_ydata() for container in axes.containers)
    assert flat == pytest.approx([50.5, 40.5])
    assert rising == pytest.approx([60.5, 70.5])


def test_the_cost_is_what_is_not_zero_in_adapter_and_head():
    (axes,) = figures.plot_cost(four_ideas(), {"prilora": "PRILoRA"}).axes
    points = {container.get_label(): container.lines[0].get_xydata().tolist() for container in axes.containers}
    assert list(points) == ["PRILoRA", "lora", "ranks", "pruning"]
    assert points["PRILoRA"] == [pytest.approx([850, 70.5])]
    assert points["lora"] == [pytest.approx([1100, 50.5])]


def marker_fills(axes):
    """Fill of every marker that is drawn, by place: of two the one on top."""
    fills = {}
    for line in sorted(axes.lines, key=lambda line: line.get_zorder()):
        if line.get_marker() in figures.MARKERS:
            fills |= {tuple(point): line.get_markerfacecolor() for point in line.get_xydata().round(2).tolist()}
    return fills


@pytest.mark.parametrize("plot", [figures.plot_ideas, figures.plot_cost])
def test_a_method_of_one_seed_is_hollow(plot):
    runs = four_ideas()
    (axes,) = plot(runs[(runs.method != "ranks") | (runs.seed == 0)]).axes
    hollow = [place for place, fill in marker_fills(axes).items() if fill == "white"]
    assert [value for _, value in hollow] == [60.0]


def test_a_grid_is_first_shown_at_prilora():
    assert figures.grid_default(grid_of_runs()) == (8, 0.5)


def test_a_grid_without_prilora_is_first_shown_at_its_largest():
    runs = grid_of_runs()
    assert figures.grid_default(runs[(runs.last_rank < 12) & (runs.ratio == 0)]) == (4, 0.0)
