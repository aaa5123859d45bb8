"""AdaLoRA's ranks by layer, from its raw runs."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from prilora_lite.experiments.allocation import allocations, markdown, slopes
from prilora_lite.experiments.figures import plot_allocation
from prilora_lite.shared.records import read_records

RESULTS = Path(__file__).parents[2] / "results"


def run(task, seed, ranks, method="adalora"):
    """A run with two matrices in each layer, one a unit above the layer's mean and one below."""
    names = {
        f"bert.encoder.layer.{layer}.{part}": rank + change
        for layer, rank in enumerate(ranks)
        for part, change in (("query", 1), ("output.dense", -1))
    }
    history = [{"step": 1, "ranks": dict.fromkeys(names, 12)}, {"step": 9, "ranks": names}]
    return {"encoder": "e", "task": task, "seed": seed, "method": method, "pruning": history}


def test_the_last_ranks_count_as_the_mean_of_a_layers_matrices():
    ranks = allocations([run("a", 0, [7, 5, 3]), run("a", 0, [1, 1, 1], method="bitfit")])
    assert ranks["rank"].tolist() == [7, 5, 3]
    assert ranks["layer"].tolist() == [0, 1, 2]


def test_layers_are_counted_in_order_beyond_nine():
    assert allocations([run("a", 0, range(2, 14))])["rank"].tolist() == list(range(2, 14))


@pytest.mark.parametrize("ranks", [[7, 5, 3], [2, 2, 2, 2], [4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11, 12]])
def test_the_slope_is_that_of_the_least_squares_line_from_end_to_end(ranks):
    x = np.arange(len(ranks))
    expected = np.cov(x, ranks, bias=True)[0, 1] / x.var() * (len(ranks) - 1)
    assert slopes(allocations([run("a", 0, ranks)]))["slope"].tolist() == pytest.approx([expected], abs=1e-9)


def test_the_table_has_means_over_seeds_and_the_slopes_deviation():
    text = markdown(allocations([run("a", 0, [7, 5, 3]), run("a", 1, [5, 5, 5])]))
    assert text.splitlines()[-1] == "| a | 6.0 | 5.0 | 4.0 | -2.0 (2.8) |"


def test_the_figure_draws_every_seed_their_mean_and_the_line():
    axes = plot_allocation(allocations([run("a", 0, [7, 5, 3]), run("a", 1, [5, 5, 5])]), [4, 8, 12]).axes[0]
    drawn = [list(line.get_ydata()) for line in axes.lines]
    assert drawn == [[7, 5, 3], [5, 5, 5], [6, 5, 4], [4, 8, 12]]


def test_no_run_of_adalora_gives_an_empty_frame():
    frame = allocations([run("a", 0, [1], method="full")])
    assert isinstance(frame, pd.DataFrame)
    assert frame.empty


def test_in_the_recorded_runs_adalora_puts_its_rank_at_the_bottom():
    for name in ("pocket", "minilm_glue"):
        assert (
            slopes(allocations(read_records(RESULTS / f"{name}.jsonl")))["slope"].groupby(lambda _: 0).mean() < 0
        ).all()


def test_a_tasks_name_keeps_to_its_cell():
    lines = markdown(allocations([run("a|b", 0, [7, 5, 3])])).splitlines()
    assert lines[2].startswith(r"| a\|b |")
