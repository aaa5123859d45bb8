"""Widgets for the notebooks: controls over the pure functions of ``plots``, and a button that really trains."""

from __future__ import annotations

import base64
import html
import threading
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from matplotlib.figure import Figure
from transformers import TrainerCallback

from prilora_lite.experiments.budget import adapter_parameters, budget_ranks
from prilora_lite.experiments.finetune import Result, finetune
from prilora_lite.importance import IMPORTANCE_RULES, InputNorms, check_ratio, importance, keep_mask
from prilora_lite.teaching import plots, recordings

_STYLE = {"style": {"description_width": "10em"}, "layout": {"width": "34em"}}
_SLIDER = _STYLE | {"continuous_update": False}  # a dragged slider would queue up pictures of 0.2 s each
_DECAYS = [0.0, 0.5, 0.9, 0.99]


class Explorer:
    """Controls over a function from their values to a figure and a line of text.

    Shown in a notebook it is live; on a page that runs nothing, its picture at the default values is shown.

    Args:
        draw: called with the controls' values by name; returns a figure and a text. An error is shown as text once the
            first picture is there; before that, it is raised.
        controls: widgets with a ``value``, by name.
        alt: what the picture shows, for those who can't see it.

    Attributes:
        controls, label, image: the widgets; ``box`` holds them all.
    """

    def __init__(
        self, draw: Callable[..., tuple[Figure, str]], controls: Mapping[str, ipywidgets.Widget], alt: str
    ) -> None:
        self.draw, self.controls, self.alt = draw, dict(controls), alt
        self.label = ipywidgets.HTML()
        self.image = ipywidgets.Image(format="png", width=850)
        self.box = ipywidgets.VBox([*self.controls.values(), self.label, self.image])
        for control in self.controls.values():
            control.observe(self._update, "value")
        self._show(*self._draw())

    def _draw(self) -> tuple[Figure, str]:
        return self.draw(**{name: control.value for name, control in self.controls.items()})

    def _show(self, figure: Figure, text: str) -> None:
        self.label.value, self.image.value = text, plots.to_png(figure)

    def _update(self, change: Any) -> None:
        try:
            self._show(*self._draw())
        except ValueError as error:  # values that do not go together: say why, keep the picture
            self.label.value = f"<b>Not possible:</b> {html.escape(str(error))} (the picture is the last possible one)"
        except Exception as error:  # anything: a live kernel would swallow it, and the slider would seem dead
            self.label.value = f"<b>{type(error).__name__}:</b> {html.escape(str(error))}"

    def _ipython_display_(self) -> None:
        picture = {"image/png": base64.b64encode(self.image.value).decode()}
        display(_live(self.box, self.alt) | picture, metadata={"image/png": {"alt": self.alt}}, raw=True)


def explore_rank(update: torch.Tensor) -> Explorer:
    """Rank -> error of a truncated update and the parameters that the two factors have.

    Args:
        update: Delta W, (m, n).

    Raises:
        ValueError: the update is not a matrix, not finite, or zero.
    """
    _check_matrix("update", update)
    if not update.any():
        raise ValueError("update holds zeros alone, so there is no error to show; give W - W0 of a trained layer")
    m, n = update.shape
    values = torch.linalg.svdvals(update.detach().float()).numpy(force=True)
    errors = plots.truncation_errors(values)

    def draw(rank: int) -> tuple[Figure, str]:
        text = (
            f"r = {rank}: relative error {errors[rank - 1]:.2f}, "
            f"{rank * (m + n):,} parameters instead of {m * n:,} ({rank * (m + n) / (m * n):.0%})"
        )
        return plots.plot_spectrum(values, rank), text

    rank = ipywidgets.IntSlider(min(8, m, n), 1, min(m, n), description="rank r", **_SLIDER)
    return Explorer(draw, {"rank": rank}, "Singular values of an update and the error left at each rank")


def explore_schedule(num_layers: int, shapes: list[tuple[int, int]]) -> Explorer:
    """Slope and mean rank -> rank of each layer, parameters, and the line of the equal budget.

    The slope is even, so that the line ends in whole ranks whose difference it is.

    Args:
        num_layers: the number of layers, L.
        shapes: (m, n) of each adapted matrix of one layer.
    """

    def draw(slope: int, mean: int) -> tuple[Figure, str]:
        ranks = budget_ranks(num_layers, mean, slope)
        parameters = adapter_parameters(ranks, shapes)
        flat = adapter_parameters([mean] * num_layers, shapes)
        text = (
            f"ranks {ranks}, sum {sum(ranks)}<br>{parameters:,} parameters, LoRA with r = {mean} everywhere: {flat:,}"
        )
        return plots.plot_schedule(ranks, mean, adapter_parameters([1], shapes)), text

    controls = {
        "slope": ipywidgets.IntSlider(8, -14, 14, step=2, description="slope r_f - r_s", **_SLIDER),
        "mean": ipywidgets.IntSlider(8, 1, 16, description="mean rank", **_SLIDER),
    }
    return Explorer(draw, controls, "Rank of each layer, and what the schedule costs beside a flat one")


def explore_importance(lora_A: torch.Tensor, inputs: list[torch.Tensor], ratio: float = 0.5) -> Explorer:
    """Decay of the moving average and importance rule -> heat maps of A, its scores and its mask.

    Args:
        lora_A: A, (r, n); the rules that ask for its gradient need one on it.
        inputs: what the layer read at each step, (tokens, n) each.
        ratio: share of A that is pruned.

    Raises:
        ValueError: a ratio out of range; weights or inputs that are missing, not finite, or do not fit together.
    """
    check_ratio(ratio)
    _check_matrix("lora_A", lora_A)
    if not inputs:
        raise ValueError("inputs: expected what the layer read, one (tokens, n) tensor for each step, got none")
    for step, x in enumerate(inputs):
        _check_matrix(f"inputs[{step}]", x)
        if x.shape[1] != lora_A.shape[1]:
            raise ValueError(f"inputs[{step}]: expected {lora_A.shape[1]} features, as A has, got {tuple(x.shape)}")
    weights, gradient = lora_A.detach(), lora_A.grad if lora_A.is_leaf else None
    mean_squares = {decay: _mean_square(inputs, decay) for decay in _DECAYS}

    def score_and_keep(decay: float, rule: str) -> tuple[torch.Tensor, torch.Tensor]:
        scores = importance(weights, mean_squares[decay], rule, torch.Generator().manual_seed(0), gradient)
        return scores, keep_mask(scores, ratio)

    def draw(decay: float, rule: str) -> tuple[Figure, str]:
        scores, keep = score_and_keep(decay, rule)
        others = score_and_keep(decay, "magnitude")[1], score_and_keep(0.9, rule)[1]
        by_size, by_decay = (f"{(keep != other).float().mean():.0%}" for other in others)
        newest, first = 1 - decay if len(inputs) > 1 else 1, decay ** (len(inputs) - 1)  # the first q set s
        text = (
            f"of the {len(inputs)} steps the newest weighs {newest:.2f} in s, the first {first:.2f}; {by_size} of the "
            f"mask differs from that of the weights' size alone, {by_decay} from that at decay 0.9"
        )
        arrays = (part.numpy(force=True) for part in (weights, mean_squares[decay], scores, keep))
        return plots.plot_importance(*arrays), text

    controls = {
        "decay": ipywidgets.SelectionSlider(options=_DECAYS, value=0.9, description="decay β", **_SLIDER),
        "rule": ipywidgets.Dropdown(options=list(IMPORTANCE_RULES), description="importance rule", **_STYLE),
    }
    alt = (
        "Four panels over the input features: the norm of each; the sizes of the weights of A; their importance, which "
        "by the default rule is bright in the columns of large norms; and in black the entries that survive"
    )
    return Explorer(draw, controls, alt)


def _mean_square(inputs: list[torch.Tensor], decay: float) -> torch.Tensor:
    norms = InputNorms(inputs[0].shape[1])
    for x in inputs:
        norms.add(x)
        norms.fold(decay)
    return norms.mean_square


def _check_matrix(name: str, matrix: torch.Tensor) -> None:
    if matrix.ndim != 2 or not matrix.numel():
        raise ValueError(f"{name}: expected a matrix with rows and columns, got shape {tuple(matrix.shape)}")
    if not matrix.isfinite().all():
        raise ValueError(f"{name} is not finite: expected numbers alone, got NaN or infinity in it")


def explore_pruning() -> Explorer:
    """Pruning ratio, interval and moment -> how the recorded run of ``pocket-rte`` went."""
    accuracy = recordings.load("pruning").groupby(["ratio", "interval"])["accuracy"].agg(["mean", "std", "count"])

    def draw(ratio: float, interval: int, step: int) -> tuple[Figure, str]:
        trace = recordings.load_trace(ratio, interval)
        mean, sd, seeds = accuracy.loc[(ratio, interval if ratio else recordings.INTERVALS[0])]
        changed = list(trace["churn"].values())
        moved = f", {np.mean(changed):.1%} of the zeros are new at each" if changed else ""
        text = (
            f"recorded: accuracy {100 * mean:.1f} % (sd {100 * sd:.1f} over {seeds:.0f} seeds); "
            f"prunes: {len(trace['masks'])}{moved}; {trace['sparsity'][-1]:.0%} zeros at the end"
        )
        return plots.plot_pruning(trace, step), text

    steps = len(recordings.load_trace(recordings.RATIOS[0], recordings.INTERVALS[0])["losses"])
    controls = {
        "ratio": ipywidgets.SelectionSlider(
            options=recordings.RATIOS, value=0.5, description="pruning ratio", **_SLIDER
        ),
        "interval": ipywidgets.SelectionSlider(
            options=recordings.INTERVALS, value=20, description="interval N (steps)", **_SLIDER
        ),
        "step": ipywidgets.IntSlider(steps, 1, steps, description="up to step", **_SLIDER),
    }
    alt = (
        "A recorded run step by step: its loss falls; the zeros of A are gone one step after each prune; the share of "
        "the squared norm that a prune removes falls towards zero; the mask of one A; and the churn of each prune"
    )
    return Explorer(draw, controls, alt)


def explore_grid(runs: pd.DataFrame) -> Explorer:
    """Rank slope and pruning ratio -> the stored runs along both, and the metric of the cell where they meet.

    Args:
        runs: one row per run of a grid, such as ``recordings.load_study("pocket_grid")``.
    """
    slopes, ratios = plots.grid_values(runs)
    slope, ratio = plots.grid_default(runs)
    cells = plots.grid_cells(runs).groupby(["slope", "ratio", "task"])["value"].agg(["mean", "std", "count"])

    def draw(slope: int, ratio: float) -> tuple[Figure, str]:
        found = [
            f"{task} {100 * cell['mean']:.1f} % (sd {100 * cell['std']:.1f}, {cell['count']:.0f} seeds)"
            for (*place, task), cell in cells.iterrows()
            if place == [slope, ratio]
        ]
        return plots.plot_grid(runs, slope, ratio), "; ".join(found) or "no runs where the two meet"

    controls = {
        "slope": ipywidgets.SelectionSlider(options=slopes, value=slope, description="slope r_f - r_s", **_SLIDER),
        "ratio": ipywidgets.SelectionSlider(options=ratios, value=ratio, description="pruning ratio", **_SLIDER),
    }
    return Explorer(
        draw, controls, "Points above LoRA along the rank slope, and along the pruning ratio, with 95 % intervals"
    )


class TrainButton:
    """A button that trains in a thread of its own, so that the notebook stays free, and one that stops it.

    Args:
        controls: widgets whose values are handed to ``configure`` when the button is pressed.
        configure: from these values to the arguments of :func:`~prilora_lite.experiments.finetune.finetune`.

    Attributes:
        start, stop, progress, label: the widgets; ``box`` holds them all.
        result: of the latest run that came to its end, None before.
        thread: of the run under way or the latest, None before the first.
    """

    _busy = threading.Lock()  # of all buttons: runs side by side would share torch's one source of random numbers

    def __init__(self, controls: Mapping[str, ipywidgets.Widget], configure: Callable[..., dict[str, Any]]) -> None:
        self.controls, self.configure = dict(controls), configure
        self.start = ipywidgets.Button(description="Train", button_style="primary", icon="play")
        self.stop = ipywidgets.Button(description="Stop", disabled=True, icon="stop")
        self.progress = ipywidgets.IntProgress(0, 0, 1, layout={"width": "24em"})
        self.label = ipywidgets.HTML("some ten seconds on two CPU cores")
        self.box = ipywidgets.VBox([ipywidgets.HBox([self.start, self.stop, self.progress]), self.label])
        self.result: Result | None = None
        self.thread: threading.Thread | None = None
        self._asked_to_stop = threading.Event()
        self.start.on_click(self._start)
        self.stop.on_click(lambda button: self._asked_to_stop.set())

    def _start(self, button: ipywidgets.Button) -> None:
        if not self._busy.acquire(blocking=False):
            self.label.value = "a run is under way: stop it, or wait for its end"
            return
        self._asked_to_stop.clear()
        self.start.disabled, self.stop.disabled = True, False
        self.progress.value, self.label.value = 0, "training ... (meanwhile run no cell that trains or draws at random)"
        values = {name: control.value for name, control in self.controls.items()}
        self.thread = threading.Thread(target=self._train, args=(values,), daemon=True)
        self.thread.start()

    def _train(self, values: dict[str, Any]) -> None:
        watch = _Watch(self.progress, self._asked_to_stop)
        try:
            result = finetune(**self.configure(**values), progress=False, callbacks=[watch])
        except Exception as error:  # anything: in a thread it would be lost, here it is read
            self.label.value = f"<b>{type(error).__name__}:</b> {html.escape(str(error))}"
        else:
            metric, value = next(iter(result.metrics.items()))
            what = ", ".join(f"{name} {values[name]}" for name in values)
            if result.steps < self.progress.max:
                self.label.value = f"stopped after {result.steps} steps ({what})"
            else:
                self.result = result
                self.label.value = f"trained just now: {metric} {100 * value:.1f} % ({what}; {result.steps} steps)"
        finally:
            self.start.disabled, self.stop.disabled = False, True
            self._busy.release()

    def _ipython_display_(self) -> None:
        display(_live(self.box, "Buttons that train and stop, a progress bar: live in a running notebook"), raw=True)


def _live(box: ipywidgets.Box, text: str) -> dict[str, Any]:
    """A widget as display data, with a text for pages that run nothing."""
    view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    return {"text/plain": text, "application/vnd.jupyter.widget-view+json": view}


class _Watch(TrainerCallback):
    """Moves a progress bar, and ends training once the event is set."""

    def __init__(self, bar: ipywidgets.IntProgress, asked_to_stop: threading.Event) -> None:
        self.bar, self.asked_to_stop = bar, asked_to_stop

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.max = state.max_steps

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.asked_to_stop.is_set():
            control.should_training_stop = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.value = state.global_step


def train_with_pruning(explorer: Explorer) -> TrainButton:
    """Train LoRA on ``pocket-rte`` for one epoch with the ratio and interval that :func:`explore_pruning` shows."""

    def configure(ratio: float, interval: int) -> dict[str, Any]:
        settings = recordings.PRUNING_SETTINGS
        config = recordings.pruning_config(ratio, interval)
        return {"task": "pocket-rte", "method": config, "settings": settings}

    return TrainButton({name: explorer.controls[name] for name in ("ratio", "interval")}, configure)
