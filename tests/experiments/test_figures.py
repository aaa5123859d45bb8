"""Figures of results draw the runs that they are given."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from prilora_lite.experiments import figures, grid_figure, reporting
from prilora_lite.experiments.looks import LOOKS, MARKERS
from prilora_lite.experiments.methods import METHODS
from prilora_lite.experiments.tasks import TASKS
from tests.drawn import assert_legible
from tests.experiments.stored import stored
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
    assert axes.get_xlabel() == "Matthews correlation on validation (%)"
    assert axes.get_title() == "cola (1 to 2 seeds)"


def test_dollars_in_the_name_of_a_task_are_drawn_as_they_are(tmp_path):
    definition = {"name": "$x^$ a", "columns": ["text"], "labels": ["a", "b"], "metrics": ["accuracy"]}
    made = [stored(m, seed=s, task="$x^$ a", definition=definition) for m in ("lora", "prilora") for s in (0, 1)]
    frame = reporting.to_dataframe(made)
    for number, figure in enumerate((figures.plot_ablation(frame), figures.plot_cost(frame))):
        figures.write_png(tmp_path / f"{number}.png", figure)
        assert r"\$x^\$ a" in "".join(axes.get_title() for axes in figure.axes)


def test_dollars_in_a_picture_of_answers_are_drawn_as_they_are(tmp_path):
    row = {"question": "a", "difference": 1.0, "low": 0.5, "high": 1.5, "margin": 1.0, "verdict": "difference"}
    answers = pd.DataFrame([row])
    figure = figures.plot_chosen_answers(answers, {"at $1": {"a": "x $y_{$"}})
    figures.write_png(tmp_path / "chosen.png", figure)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [r"at \$1", r"x \$y_{\$"]


def test_of_two_methods_a_line_joins_the_runs_of_each_seed():
    values = {("lora", 0): 0.4, ("lora", 1): 0.6, ("prilora", 1): 0.5, ("prilora", 2): 0.7}
    frame = reporting.to_dataframe([record(m, seed=s, value=v) for (m, s), v in values.items()])
    (axes,) = figures.plot_ablation(frame).axes
    (links,) = axes.collections
    ((a, b),) = [segment.tolist() for segment in links.get_segments()]
    dots = [dot for line in axes.lines if line.get_marker() == "o" for dot in line.get_xydata().tolist()]
    assert [a[0], b[0]] == pytest.approx([60, 50])
    assert a in dots
    assert b in dots
    third = pd.concat([frame, frame.assign(method="full")])
    assert not figures.plot_ablation(third).axes[0].collections


def test_the_figure_draws_each_difference_its_interval_and_its_margin():
    answers = pd.DataFrame(
        {
            "question": ["a", "b", "c"], "contrast": ["a", "b", "c"], "tasks": "pocket-rte", "margin": [1.0, 2.0, 1.0],
            "difference": [0.1, 3.0, 1.0], "low": [-0.5, 2.0, -1.0], "high": [0.7, 4.0, 3.0],
            "verdict": ["equal within 1 point", "difference", "not decided: it would take 9 seeds"],
            "settings": "pocket", "seeds": 20,
        }
    )  # fmt: skip
    axes = figures.plot_answers(answers).axes[0]
    assert [(bar.get_x(), bar.get_width()) for bar in axes.patches] == [(-1, 2), (-2, 4), (-1, 2)]
    lines = [list(line.get_xdata()) for line in axes.lines if line.get_linestyle() == "-"]
    assert lines[:3] == [[-0.5, 0.7], [2.0, 4.0], [-1.0, 3.0]]
    assert len({line.get_marker() for line in axes.lines if line.get_marker() != "None"}) == 3


def test_the_figure_draws_an_answer_at_the_best_rates_thinner_below_the_first():
    answers = pd.DataFrame(
        {
            "question": ["a", "a, best rates", "b"], "contrast": ["a", "a", "b"], "tasks": "pocket-rte", "margin": 1.0,
            "difference": [0.1, 3.0, np.nan], "low": [-0.5, 2.0, np.nan], "high": [0.7, 4.0, np.nan],
            "verdict": ["equal within 1 point", "difference", "unfinished: 2 of 9 seeds run"],
            "settings": ["pocket; learning rate a 1", "pocket, best rates; learning rate a 1", "pocket"], "seeds": 20,
        }
    )  # fmt: skip
    axes = figures.plot_answers(answers).axes[0]
    assert len(axes.get_yticklabels()) == 1
    safe, best = (line for line in axes.lines[:-1] if line.get_linestyle() == "-")
    assert list(best.get_xdata()) == [2.0, 4.0]
    assert best.get_linewidth() < safe.get_linewidth()
    assert best.get_ydata()[0] > safe.get_ydata()[0]  # the axis points down
    assert "best learning rate" in axes.get_xlabel()


def test_chosen_answers_stand_under_their_headings_with_their_numbers_beside_them():
    answers = pd.DataFrame(
        {
            "question": ["a", "b", "c"], "margin": [1.0, 2.0, 1.0], "difference": [0.1, 3.0, np.nan],
            "low": [-0.5, 2.0, np.nan], "high": [0.7, 4.0, np.nan],
            "verdict": ["equal within 1 point", "difference", "not run"],
        }
    )  # fmt: skip
    axes = figures.plot_chosen_answers(answers, {"Ranks": {"b": "rising"}, "Zeros": {"c": "all", "a": "few"}}).axes[0]
    labels = axes.get_yticklabels()
    assert [label.get_text() for label in labels] == ["Ranks", "rising", "Zeros", "few"]
    assert [label.get_fontweight() == "bold" for label in labels] == [True, False, True, False]
    assert {text.get_position()[1]: text.get_text() for text in axes.texts} == {
        1: "+3.0  (2.0 to 4.0)", 3: "+0.1  (-0.5 to 0.7)",
    }  # fmt: skip
    lines = {line.get_ydata()[0]: list(line.get_xdata()) for line in axes.lines[:-1] if line.get_linestyle() == "-"}
    assert lines == {1: [2.0, 4.0], 3: [-0.5, 0.7]}


def test_one_that_was_asked_at_the_best_rates_alone_is_thin_and_stands_in_its_place():
    answers = pd.DataFrame(
        {
            "question": ["a", "b"], "contrast": ["a", "b"], "tasks": "pocket-rte", "margin": 1.0, "difference": 3.0,
            "low": 2.0, "high": 4.0, "verdict": "difference", "seeds": 20,
            "settings": ["pocket; learning rate a 1", "pocket, best rates; learning rate a 1"],
        }
    )  # fmt: skip
    axes = figures.plot_answers(answers).axes[0]
    safe, best = (line for line in axes.lines[:-1] if line.get_linestyle() == "-")
    assert (safe.get_ydata()[0], best.get_ydata()[0]) == (0, 1)
    assert best.get_linewidth() < safe.get_linewidth()


@pytest.mark.parametrize(
    ("seeds", "settings", "labels"),
    [
        (20, ["pocket, epochs=1", "pocket, epochs=6"], ["epochs 1; 20 seeds]", "epochs 6; 20 seeds]"]),
        ([20, 40], "pocket", ["[pocket: rte; 20 seeds]", "[pocket: rte; 40 seeds]"]),
        (20, ["pocket", "minilm"], ["[pocket: rte; 20 seeds]", "[minilm: rte; 20 seeds]"]),
        (20, "pocket", ["a", "b"]),
    ],
)
def test_two_questions_of_one_contrast_have_a_line_and_a_label_each(seeds, settings, labels):
    settings = [settings] * 2 if isinstance(settings, str) else settings
    answers = pd.DataFrame(
        {
            "question": ["a", "b"], "seeds": seeds, "contrast": "c", "tasks": "pocket-rte", "margin": 1.0,
            "difference": [5.0, -5.0], "low": [4.0, -6.0], "high": [6.0, -4.0], "verdict": "difference",
            "settings": [f"{setting}; learning rate c 1" for setting in settings],
        }
    )  # fmt: skip
    axes = figures.plot_answers(answers).axes[0]
    for label, end in zip(axes.get_yticklabels(), labels, strict=True):
        assert label.get_text().endswith(end)
    assert len({line.get_ydata()[0] for line in axes.lines if line.get_marker() != "None"}) == 2


def grid_of_runs():
    """Two tasks, five slopes, two ratios, three seeds; the value says which cell it is."""
    rows = []
    for task, slope, ratio, seed in product(("a", "b"), (-8, -4, 0, 4, 8), (0.0, 0.5), range(3)):
        config = {"first_rank": 8 - slope // 2, "last_rank": 8 + slope // 2, "ratio": ratio, "scaling": "layer"}
        config |= {"layers": None, "interval": 40, "importance": "magnitude_input"}
        value = 0.5 + slope / 100 + ratio / 10 + (0.2 if task == "b" else 0) + seed / 1000
        rows.append({"task": task, "method": f"{slope} {ratio}", "seed": seed, "metric": "m", "value": value} | config)
    return pd.DataFrame(rows)


def test_the_grid_draws_differences_to_lora_and_their_t_intervals_along_both_axes():
    runs = grid_of_runs()
    changed = (runs.first_rank == 4) & (runs.ratio == 0.5) & (runs.task == "a") & (runs.seed == 2)
    runs.loc[changed, "value"] += 0.03  # differences to LoRA of 13, 13 and 16 points
    left, right = grid_figure.plot_grid(runs, 8, 0.5).axes
    a, b = (container.lines[0] for container in left.containers)
    assert [round(x) for x in a.get_xdata()] == [round(x) for x in b.get_xdata()] == [-8, -4, 0, 4, 8]
    assert set(a.get_xdata()).isdisjoint(b.get_xdata())  # side by side
    assert a.get_ydata() == pytest.approx([-3, 1, 5, 9, 14])
    assert b.get_ydata() == pytest.approx([-3, 1, 5, 9, 13])
    bars = left.containers[0].lines[2][0].get_segments()
    halves = [(bar[1, 1] - bar[0, 1]) / 2 for bar in bars]
    assert halves == pytest.approx([0, 0, 0, 0, 4.302653 * 3**0.5 / 3**0.5])  # t of two degrees of freedom
    assert [round(x, 1) for x in right.containers[0].lines[0].get_xdata()] == [0, 0.5]
    assert right.containers[0].lines[0].get_ydata() == pytest.approx([8, 14])
    assert left.get_ylabel().startswith("points above LoRA")


def test_a_grid_without_runs_of_lora_draws_the_metric_itself():
    runs = grid_of_runs()
    left, _ = grid_figure.plot_grid(runs[(runs.first_rank != 8) | (runs.ratio != 0)], 8, 0.5).axes
    assert left.containers[0].lines[0].get_ydata() == pytest.approx([47.1, 51.1, 55.1, 59.1, 63.1])
    (bar, *_) = left.containers[0].lines[2][0].get_segments()
    assert bar[1, 1] - bar[0, 1] == pytest.approx(2 * 4.302653 * 0.1 / 3**0.5)
    assert left.get_ylabel().startswith("metric on validation (%)")


def test_the_grid_leaves_out_runs_that_differ_in_more():
    runs = grid_of_runs()
    odd = runs.iloc[:4].copy()
    odd[["importance", "ratio", "value"]] = [["random", 0.5, 0.0]] * 4
    layers = runs.iloc[:4].assign(layers="0 1", value=0.0)
    small = runs.iloc[:4].assign(first_rank=1, last_rank=1, value=0.0)
    schedule = runs.iloc[:4].assign(ranks="steep", value=0.0)
    usual = runs.assign(ranks="linear", scope="row", targets=None)
    usual.loc[usual["ratio"] == 0, "scope"] = "matrix"  # which has no effect there
    scope, targets = (
        usual.assign(scope="matrix", ratio=0.5, value=0.0).iloc[:4],
        usual.iloc[:4].assign(targets="query", value=0.0),
    )
    tilted = usual.assign(first_rank=8, last_rank=8, scaling="1.0 2.0", value=0.0).iloc[:4]
    with_more = pd.concat([usual, odd, layers, small, schedule, scope, targets, tilted], ignore_index=True)
    assert grid_figure.grid_values(with_more) == grid_figure.grid_values(runs) == ([-8, -4, 0, 4, 8], [0.0, 0.5])
    assert grid_figure.grid_cells(with_more)["value"].tolist() == runs["value"].tolist()


def test_a_task_of_which_the_grid_has_no_cell_is_left_out_of_its_panels():
    runs = grid_of_runs()
    only_flat = (runs.task == "b") & ((runs.first_rank != runs.last_rank) | (runs.ratio == 0))
    figure = grid_figure.plot_grid(runs[~only_flat], 8, 0.5)
    left, right = figure.axes
    assert [len(axes.containers) for axes in (left, right)] == [2, 1]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


@pytest.mark.parametrize(("slope", "ratio", "message"), [(3, 0.5, "slope 3; there are -8"), (8, 0.9, "ratio 0.9")])
def test_the_grid_names_what_there_is(slope, ratio, message):
    with pytest.raises(ValueError, match=message):
        grid_figure.plot_grid(grid_of_runs(), slope, ratio)


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


def test_the_intervals_of_the_ideas_are_those_of_the_differences_to_lora():
    runs = four_ideas()
    runs.loc[(runs.method == "ranks") & (runs.seed == 1), "value"] += 0.02  # differences to LoRA of 10 and 12 points
    (axes,) = figures.plot_ideas(runs).axes
    halves = [np.ptp(bar[:, 1]) / 2 for line in axes.containers for bar in line.lines[2][0].get_segments()]
    assert halves == pytest.approx([0, 0, 12.706205, 0])  # LoRA, pruning, ranks, PRILoRA: t of one degree of freedom


def test_without_lora_the_intervals_are_those_of_the_means():
    runs = four_ideas()
    _, metric = figures.plot_cost(runs[runs.method == "ranks"]).axes
    (bar,) = metric.containers[0].lines[2][0].get_segments()
    assert np.ptp(bar[:, 0]) / 2 == pytest.approx(12.706205 * 0.5)


def test_costs_are_what_is_not_zero_in_adapter_and_head_the_cheapest_on_top():
    costs, metric = figures.plot_cost(four_ideas(), {"prilora": "PRILoRA"}).axes
    assert [label.get_text() for label in costs.get_yticklabels()] == ["PRILoRA", "pruning", "lora", "ranks"]
    assert [line.get_xdata()[0] for line in costs.lines] == [850, 850, 1100, 1100]
    points = {container.get_label(): container.lines[0].get_xydata().tolist() for container in metric.containers}
    assert points["PRILoRA"] == [pytest.approx([70.5, 0])]
    assert points["lora"] == [pytest.approx([50.5, 2])]


def marker_fills(axes):
    """Fill of every marker that is drawn, by place: of two the one on top."""
    fills = {}
    for line in sorted(axes.lines, key=lambda line: line.get_zorder()):
        if line.get_marker() in MARKERS:
            fills |= {tuple(point): line.get_markerfacecolor() for point in line.get_xydata().round(2).tolist()}
    return fills


@pytest.mark.parametrize("plot", [figures.plot_ideas, figures.plot_cost])
def test_a_method_of_one_seed_is_hollow(plot):
    runs = four_ideas()
    axes = plot(runs[(runs.method != "ranks") | (runs.seed == 0)]).axes[-1]
    (hollow,) = [place for place, fill in marker_fills(axes).items() if fill == "white"]
    assert 60.5 in hollow  # LoRA's mean of both seeds, 50.5, and the 10 points that the one pair differs by


def all_methods(seeds=(0, 1)):
    """Every method of the table, once a seed; methods of one pair cost the same."""
    rows = [
        {"task": "a", "method": method, "seed": seed, "metric": "m", "value": 0.5 + place / 100 + seed / 50}
        | {"adapter_nonzero": 1000 * (place // 2), "head_nonzero": 100}
        for place, method in enumerate(METHODS)
        for seed in seeds
    ]
    return pd.DataFrame(rows)


def test_no_two_methods_share_a_place_however_equal_their_costs():
    costs, metric = figures.plot_cost(all_methods()).axes
    places = [container.lines[0].get_ydata()[0] for container in metric.containers]
    assert sorted(places) == list(range(len(METHODS)))
    numbers = [line.get_xdata()[0] for line in costs.lines]
    assert numbers == sorted(numbers)


def test_a_method_has_one_colour_in_all_figures():
    runs = all_methods()
    ablation = {
        name: [to_hex(line.get_color()).upper() for line in figures.plot_ablation(runs).axes[0].lines][2 * place]
        for place, name in enumerate(METHODS)
    }
    metric = figures.plot_cost(runs).axes[1]
    cost = {container.get_label(): to_hex(container.lines[0].get_color()).upper() for container in metric.containers}
    (ideas,) = figures.plot_ideas(runs).axes
    drawn = {line.get_marker(): to_hex(line.get_color()).upper() for line in ideas.lines if line.get_marker() != "None"}
    assert ablation == cost == {name: look.colour for name, look in LOOKS.items()}
    assert drawn == {LOOKS[name].marker: LOOKS[name].colour for name in figures.IDEAS}


def test_the_allocation_has_the_colours_of_adalora_and_of_ranks_on_a_line():
    ranks = pd.DataFrame({"task": "a", "seed": 0, "layer": [0, 1], "rank": [6, 4]})
    shown = {line.get_label(): line.get_color() for line in figures.plot_allocation(ranks, [4, 6]).axes[0].lines}
    assert shown["AdaLoRA, the mean"] == LOOKS["adalora"].colour
    assert shown["PRILoRA's line"] == LOOKS["ranks"].colour


@pytest.mark.parametrize(("last", "off_the_axis"), [(0.40, ["40"]), (0.79, [])])
def test_a_method_far_below_all_others_is_an_arrow_with_its_number_and_leaves_them_the_axis(last, off_the_axis):
    means = {"lora": 0.80, "ranks": 0.81, "prilora": 0.82, "bitfit": last}
    unset = dict.fromkeys(("layers", "ratio", "first_rank", "last_rank"))
    rows = [
        {"task": "a", "method": method, "seed": seed, "metric": "accuracy", "value": mean + seed / 1000}
        | {"adapter_nonzero": 1, "head_nonzero": 1} | unset
        for method, mean in means.items() for seed in (-1, 0, 1)
    ]  # fmt: skip
    metric = figures.plot_cost(pd.DataFrame(rows)).axes[1]
    assert [text.get_text() for text in metric.texts] == off_the_axis
    assert metric.get_xlim()[0] > 70


def test_verdicts_and_tasks_have_no_methods_colour():
    greys = [*figures.TASK_GREYS, *(colour for _, *colours in figures.VERDICTS.values() for colour in colours)]
    assert not {to_hex(grey).upper() for grey in greys} & {look.colour for look in LOOKS.values()}


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.plot_ablation(all_methods()),
        lambda: figures.plot_cost(all_methods(), {name: method.label for name, method in METHODS.items()}),
        lambda: figures.plot_cost(pd.concat([all_methods().assign(task=task) for task in list(TASKS)[:4]])),
        lambda: figures.plot_ideas(four_ideas()),
        lambda: grid_figure.plot_grid(grid_of_runs(), 8, 0.5),
    ],
)
def test_no_text_lies_over_another_and_no_legend_over_data(draw):
    assert_legible(draw())


def test_a_grid_is_first_shown_at_prilora():
    assert grid_figure.grid_default(grid_of_runs()) == (8, 0.5)


def test_a_grid_without_prilora_is_first_shown_at_its_largest():
    runs = grid_of_runs()
    assert grid_figure.grid_default(runs[(runs.last_rank < 12) & (runs.ratio == 0)]) == (4, 0.0)
