"""Widgets: a control moves figure and numbers over its whole range; the train button trains, stops and tells."""

import threading

import pytest
import torch
from ipywidgets import IntProgress, IntSlider, SelectionSlider

from prilora_lite import Settings, finetune
from prilora_lite.experiments.budget import budget_ranks
from prilora_lite.importance import IMPORTANCE_RULES
from prilora_lite.teaching import plots, recordings, widgets
from tests.training import some_of_pockets

PNG = b"\x89PNG"
QUICK = Settings(learning_rate=2e-3, epochs=1, batch_size=16, max_length=64)  # of the few rows: seven steps


def values(control):
    if isinstance(control, IntSlider):
        return [control.min, control.value, control.max]
    options = control.options
    return [option[1] if isinstance(option, tuple) else option for option in options]


def explorers():
    torch.manual_seed(0)
    inputs = [torch.randn(30, 12) * (1 + torch.arange(12)) for _ in range(5)]
    return {
        "rank": widgets.explore_rank(torch.randn(6, 5)),
        "schedule": widgets.explore_schedule(12, [(8, 8)]),
        "importance": widgets.explore_importance(torch.randn(3, 12), inputs),
        "pruning": widgets.explore_pruning(),
        "grid": widgets.explore_grid(recordings.load_study("pocket_grid")),
    }


@pytest.mark.parametrize("name", ["rank", "schedule", "importance", "pruning", "grid"])
def test_every_control_moves_picture_and_numbers_over_its_range(name):
    explorer = explorers()[name]
    for control in explorer.controls.values():
        start, seen, before = control.value, set(), bytes(explorer.image.value)
        for value in values(control):
            control.value = value
            picture = bytes(explorer.image.value)
            assert picture.startswith(PNG)
            seen.add((explorer.label.value, picture))
        assert len(seen) > 1
        control.value = start
        assert bytes(explorer.image.value) == before


def test_a_schedule_that_cannot_be_is_told_and_the_picture_stays():
    explorer = widgets.explore_schedule(12, [(8, 8)])
    explorer.controls["slope"].value = 14
    before = bytes(explorer.image.value)
    explorer.controls["mean"].value = 2
    assert "Not possible" in explorer.label.value
    assert "but 1 is the least" in explorer.label.value
    assert bytes(explorer.image.value) == before
    explorer.controls["mean"].value = 8
    assert "Not possible" not in explorer.label.value


def test_an_error_of_any_kind_is_shown_in_the_label_and_the_next_move_works():
    def draw(x):
        if x == 2:
            raise KeyError("<two>")
        return plots.plot_schedule([x], x, 1), f"x is {x}"

    explorer = widgets.Explorer(draw, {"x": IntSlider(1, 1, 3)}, "one bar")
    before = bytes(explorer.image.value)
    explorer.controls["x"].value = 2
    assert explorer.label.value == "<b>KeyError:</b> &#x27;&lt;two&gt;&#x27;"
    assert bytes(explorer.image.value) == before
    explorer.controls["x"].value = 3
    assert explorer.label.value == "x is 3"


def test_a_widget_that_cannot_draw_its_first_picture_is_an_error_in_the_cell():
    with pytest.raises(ZeroDivisionError):
        widgets.Explorer(lambda x: 1 // 0, {"x": IntSlider(1, 1, 3)}, "nothing")


def test_a_slider_that_is_dragged_draws_once_it_is_let_go():
    for explorer in explorers().values():
        sliders = [c for c in explorer.controls.values() if isinstance(c, (IntSlider, SelectionSlider))]
        assert sliders
        assert not any(slider.continuous_update for slider in sliders)


@pytest.mark.parametrize(
    ("update", "told"),
    [
        (torch.zeros(3, 2), "zeros alone"),
        (torch.tensor([[1.0, float("nan")]]), "not finite"),
        (torch.ones(3), r"shape \(3,\)"),
        (torch.ones(0, 3), r"shape \(0, 3\)"),
    ],
)
def test_an_update_without_singular_values_to_show_is_refused(update, told):
    with pytest.raises(ValueError, match=f"update.*{told}"):
        widgets.explore_rank(update)


@pytest.mark.parametrize(
    ("lora_A", "inputs", "ratio", "told"),
    [
        (torch.ones(2, 3), [torch.ones(4, 3)], 1.5, "ratio.*1.5"),
        (torch.ones(2, 3), [], 0.5, "inputs.* got none"),
        (torch.ones(2, 3), [torch.ones(4, 3), torch.ones(0, 3)], 0.5, r"inputs\[1\].*\(0, 3\)"),
        (torch.ones(2, 3), [torch.ones(4, 2)], 0.5, r"inputs\[0\].* 3.*\(4, 2\)"),
        (torch.ones(2, 3), [torch.full((4, 3), float("nan"))], 0.5, r"inputs\[0\].*not finite"),
        (torch.full((2, 3), float("inf")), [torch.ones(4, 3)], 0.5, "lora_A.*not finite"),
        (torch.ones(3), [torch.ones(4, 3)], 0.5, r"lora_A.*\(3,\)"),
    ],
)
def test_what_gives_no_mask_is_refused(lora_A, inputs, ratio, told):
    with pytest.raises(ValueError, match=told):
        widgets.explore_importance(lora_A, inputs, ratio)


def test_a_rule_that_the_table_gains_is_offered_and_drawn(monkeypatch):
    monkeypatch.setitem(IMPORTANCE_RULES, "gradient", lambda gradient: gradient.abs())
    lora_A = torch.ones(1, 2, requires_grad=True)
    (lora_A * torch.tensor([3.0, 1.0])).sum().backward()
    explorer = widgets.explore_importance(lora_A, [torch.tensor([[1.0, 2.0]])])
    explorer.controls["rule"].value = "gradient"
    assert "100% of the mask differs from that of the weights' size" in explorer.label.value


def test_a_rule_that_asks_for_a_gradient_says_so_where_there_is_none(monkeypatch):
    monkeypatch.setitem(IMPORTANCE_RULES, "gradient", lambda gradient: gradient.abs())
    explorer = widgets.explore_importance(torch.ones(1, 2), [torch.tensor([[1.0, 2.0]])])
    explorer.controls["rule"].value = "gradient"
    assert "Not possible" in explorer.label.value
    assert "needs gradient, but none was given" in explorer.label.value


def test_the_importance_says_what_the_newest_and_the_first_step_weigh():
    """The first q sets s, so at a high decay it weighs more than all others."""
    explorer = explorers()["importance"]
    explorer.controls["decay"].value = 0.99
    assert "of the 5 steps the newest weighs 0.01 in s, the first 0.96" in explorer.label.value
    explorer.controls["decay"].value = 0.5
    assert "the newest weighs 0.50 in s, the first 0.06" in explorer.label.value


def test_a_single_step_weighs_all():
    explorer = widgets.explore_importance(torch.ones(1, 2), [torch.tensor([[1.0, 2.0]])])
    assert "the newest weighs 1.00 in s, the first 1.00" in explorer.label.value


def test_the_importance_says_what_the_decay_changes():
    inputs = [torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 2.0]])]  # s at 0.9: 8.2 and 1.3, at 0: 1 and 4
    explorer = widgets.explore_importance(torch.ones(1, 2), inputs)
    assert " 0% from that at decay 0.9" in explorer.label.value
    explorer.controls["decay"].value = 0.0
    assert "100% from that at decay 0.9" in explorer.label.value
    explorer.controls["rule"].value = "magnitude"
    assert " 0% from that at decay 0.9" in explorer.label.value


def test_the_schedule_says_its_ranks_and_both_costs():
    explorer = widgets.explore_schedule(4, [(10, 20)])
    explorer.controls["mean"].value, explorer.controls["slope"].value = 6, -4
    assert str(budget_ranks(4, 6, -4)) in explorer.label.value
    assert explorer.label.value.count("720") == 2  # 24 ranks of 30 numbers: the same as the flat one


def test_the_rank_says_error_and_parameters():
    update = torch.diag(torch.tensor([4.0, 3.0, 0.0]))
    explorer = widgets.explore_rank(update)
    explorer.controls["rank"].value = 1
    assert "r = 1: relative error 0.60, 6 parameters instead of 9" in explorer.label.value


def test_no_memory_looks_at_the_last_step_alone():
    inputs = [torch.ones(4, 3), torch.tensor([[1.0, 2.0, 3.0]])]
    explorer = widgets.explore_importance(torch.ones(1, 3), inputs, ratio=0.34)
    explorer.controls["decay"].value = 0.0
    assert "the newest weighs 1.00 in s, the first 0.00" in explorer.label.value
    explorer.controls["rule"].value = "magnitude"
    assert "0% of the mask differs" in explorer.label.value


def test_the_pruning_widget_tells_the_recorded_mean():
    explorer = widgets.explore_pruning()
    explorer.controls["ratio"].value, explorer.controls["interval"].value = 0.75, 10
    runs = recordings.load("pruning")
    mean = runs[(runs.ratio == 0.75) & (runs.interval == 10)].accuracy.mean()
    assert f"accuracy {100 * mean:.1f} %" in explorer.label.value
    assert "over 3 seeds" in explorer.label.value


def test_the_grid_tells_the_mean_of_the_chosen_cell():
    runs = recordings.load_study("pocket_grid")
    explorer = widgets.explore_grid(runs)
    explorer.controls["slope"].value, explorer.controls["ratio"].value = -8, 0.25
    cell = runs[(runs.first_rank == 12) & (runs.ratio == 0.25) & (runs.task == "pocket-rte")]
    assert f"pocket-rte {100 * cell.value.mean():.1f} %" in explorer.label.value
    assert f"{cell.seed.nunique()} seeds" in explorer.label.value


def test_a_grid_may_lack_the_cell_where_slope_and_ratio_meet():
    runs = recordings.load_study("pocket_grid")
    cross = runs[(runs.first_rank == runs.last_rank) | (runs.ratio == 0)]
    explorer = widgets.explore_grid(cross)
    assert explorer.label.value == "no runs where the two meet"
    explorer.controls["ratio"].value = 0.0
    assert "pocket-rte" in explorer.label.value


def test_shown_it_is_live_and_a_picture_and_a_text(capsys, monkeypatch):
    shown = []
    monkeypatch.setattr(widgets, "display", lambda data, **options: shown.append((data, options)))
    explorer = widgets.explore_schedule(4, [(8, 8)])
    explorer._ipython_display_()
    ((data, options),) = shown
    assert set(data) == {"text/plain", "image/png", "application/vnd.jupyter.widget-view+json"}
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == explorer.box.model_id
    assert options["raw"] is True
    assert options["metadata"]["image/png"]["alt"] == data["text/plain"]


def button(**arguments):
    ratio = SelectionSlider(options=[0.0, 0.5], value=0.5)
    configure = {"task": "pocket-rte", "rows": some_of_pockets(), "settings": QUICK, "device": "cpu"} | arguments
    return widgets.TrainButton(
        {"ratio": ratio}, lambda ratio: configure | {"method": recordings.pruning_config(ratio, 2)}
    )


def test_the_train_button_trains_with_the_values_of_its_controls():
    train = button()
    train.start.click()
    train.thread.join()
    assert train.progress.value == train.progress.max == 7
    assert train.result.method.ratio == 0.5
    assert f"accuracy {100 * train.result.metrics['accuracy']:.1f} %" in train.label.value
    assert not train.start.disabled
    assert train.stop.disabled
    train.controls["ratio"].value = 0.0
    train.start.click()
    train.thread.join()
    assert train.result.method.ratio == 0.0


def test_the_stop_button_stops_a_run_under_way():
    train = button(settings=Settings(epochs=50, batch_size=16, max_length=64))
    train.start.click()
    while train.progress.value < 3:
        train.thread.join(timeout=0.05)
        assert train.thread.is_alive()
    assert train.start.disabled
    train.stop.click()
    train.thread.join()
    assert "stopped after" in train.label.value
    assert train.result is None
    train.configure = button().configure
    train.start.click()
    train.thread.join()
    assert "trained just now" in train.label.value  # a stop is forgotten when the next run starts


def test_two_runs_at_once_are_refused():
    train, other = button(), button()
    train.start.click()
    first = train.thread
    for second in (train, other):
        second.start.click()
        assert "a run is under way" in second.label.value
    assert train.thread is first
    assert other.thread is None
    first.join()
    other.start.click()
    other.thread.join()
    assert other.result is not None


def test_a_stop_after_the_last_step_loses_nothing():
    train = button()
    train.start.click()
    while train.progress.value < 7:
        train.thread.join(timeout=0.01)
    train.stop.click()
    train.thread.join()
    assert "trained just now" in train.label.value
    assert train.result.steps == 7


def test_an_error_in_training_is_shown_in_the_label():
    train = button(settings=Settings(batch_size=16, max_length=65))
    train.start.click()
    train.thread.join()
    assert "ValueError" in train.label.value
    assert "64 positions" in train.label.value
    assert not train.start.disabled


def test_the_button_of_the_notebook_trains_what_was_recorded():
    explorer = widgets.explore_pruning()
    explorer.controls["ratio"].value, explorer.controls["interval"].value = 0.25, 40
    train = widgets.train_with_pruning(explorer)
    arguments = train.configure(**{name: control.value for name, control in train.controls.items()})
    recipe = next(r for r in recordings.recipes("pruning") if r.name == "0.25 every 40")
    assert (arguments["task"], arguments["method"], arguments["settings"]) == (
        recipe.task, recipe.method, recipe.settings,
    )  # fmt: skip


class StopAfterThree(widgets._Watch):
    """Presses the stop button in the third step."""

    def on_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == 2:  # counted after the step
            self.asked_to_stop.set()
        super().on_optimizer_step(args, state, control, **kwargs)


def test_a_run_stopped_in_the_middle_is_pruned_in_its_last_step():
    watch = StopAfterThree(IntProgress(), threading.Event())
    config = recordings.pruning_config(0.5, 40)
    options = {"rows": some_of_pockets(), "settings": QUICK, "device": "cpu", "progress": False}
    result = finetune("pocket-rte", config, callbacks=[watch], **options)
    assert result.steps == 3
    assert [entry["step"] for entry in result.history] == [3]
    assert (result.counts.adapter - result.counts.adapter_nonzero) >= result.counts.adapter / 4
