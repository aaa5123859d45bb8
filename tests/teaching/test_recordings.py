"""The recorded runs: complete, of equal budgets, and made again by one command with the same result."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prilora_lite import PRILoRAConfig, Settings, finetune
from prilora_lite.cli import main
from prilora_lite.experiments.allocation import allocations
from prilora_lite.experiments.finetune import Result
from prilora_lite.shared.records import append_record, read_records
from prilora_lite.teaching import recordings
from tests.training import some_of_pockets

ROOT = Path(__file__).parents[2]
SHORT = Settings(learning_rate=2e-3, epochs=1, batch_size=16, max_length=64)  # of a few rows: seven steps


@pytest.mark.parametrize("name", recordings.RECORDINGS)
def test_a_recording_holds_each_planned_run_once(name):
    planned = [(r.name, r.task, r.seed) for r in recordings.recipes(name)]
    runs = recordings.load(name)
    assert sorted(zip(runs.name, runs.task, runs.seed, strict=True)) == sorted(planned)


@pytest.mark.parametrize("name", recordings.RECORDINGS)
def test_recording_again_finds_nothing_to_do(name, monkeypatch):
    monkeypatch.setattr(recordings, "finetune", None)  # any run would fail
    assert list(recordings.record(name)) == []


def test_what_is_compared_has_the_same_budget():
    adapter = recordings.load("layers").groupby("name")["adapter"].first()
    assert adapter[[f"layer {i}" for i in range(12)]].nunique() == 1
    assert adapter[["bottom third", "middle third", "top third"]].nunique() == 1
    assert adapter[["falling", "flat", "rising"]].nunique() == 1


def test_every_position_of_the_pruning_sliders_has_a_trace_with_the_pruned_share():
    for ratio in recordings.RATIOS:
        for interval in recordings.INTERVALS:
            trace = recordings.load_trace(ratio, interval)
            steps = len(trace["losses"])
            assert len(trace["sparsity"]) == steps == 125
            expected = [*range(interval, steps + 1, interval), steps] if ratio else []
            assert sorted(trace["masks"]) == sorted(set(expected))
            assert list(trace["churn"]) == sorted(trace["masks"])[1:]
            for step, mask in trace["masks"].items():
                assert mask.shape == (8, 128)
                assert ((~mask).sum(axis=1) >= int(ratio * 128)).all()
                assert trace["sparsity"][step - 1] == pytest.approx(int(ratio * 128) / 128, abs=0.01)


def test_a_mistyped_study_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="unknown study 'minilm_gleu': did you mean 'minilm_glue'"):
        recordings.load_study("minilm_gleu")


@pytest.mark.parametrize("name", recordings.STUDIES)
def test_the_packages_copy_of_a_study_is_its_table(name):
    table = ROOT / "results" / f"{name}.csv"
    assert (recordings.FOLDER / table.name).read_bytes() == table.read_bytes(), f"copy {table.name} there"


def test_a_pair_that_was_not_recorded_is_refused_with_those_that_were():
    with pytest.raises(ValueError, match=r"recorded are the ratios .*0\.25.* intervals .*40"):
        recordings.load_trace(0.33, 7)


def test_a_recording_that_is_not_there_names_the_command_that_makes_it(tmp_path):
    for call in (lambda: recordings.load("pruning", tmp_path), lambda: recordings.load_trace(0.5, 20, tmp_path)):
        with pytest.raises(FileNotFoundError, match="prilora-lite record pruning"):
            call()


def test_a_place_that_cannot_be_written_to_is_found_before_the_first_run(tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "finetune", None)  # any run would fail
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        next(recordings.record("pruning", folder=tmp_path / "file"))


def test_a_mistyped_name_is_found_before_the_first_run(monkeypatch, capsys):
    monkeypatch.setattr(recordings, "finetune", None)
    assert main(["record", "pruning", "prunning"]) == 2
    assert "pruning" in capsys.readouterr().err


def test_an_unknown_recording_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="pruning"):
        recordings.load("prunning")


@pytest.fixture
def one_run(monkeypatch):
    """A single quick recipe in place of the many, and a few rows."""
    config = PRILoRAConfig(first_rank=8, last_rank=8, ratio=0.5, interval=2)
    recipe = recordings.Recipe("0.5 every 2", config, "pocket-rte", 0, "pocket", SHORT, trace=True)
    monkeypatch.setattr(recordings, "recipes", lambda name: iter([recipe]))
    few = some_of_pockets()
    monkeypatch.setattr(recordings, "finetune", lambda *which, **how: finetune(*which, **(how | {"rows": few})))


def test_the_command_records_what_is_missing_and_nothing_else(one_run, tmp_path, capsys):
    assert main(["record", "pruning", "--folder", str(tmp_path)]) == 0
    assert "[1/1] pocket-rte 0.5 every 2, seed 0: accuracy" in capsys.readouterr().out
    assert main(["record", "pruning", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "pruning is complete\n"
    assert len(read_records(tmp_path / "pruning.jsonl")) == 1


def test_a_trace_says_what_happened_in_the_run(one_run, tmp_path):
    list(recordings.record("pruning", folder=tmp_path))
    trace = recordings.load_trace(0.5, 2, folder=tmp_path)
    options = {"rows": some_of_pockets(), "settings": SHORT, "device": "cpu", "progress": False}
    again = finetune("pocket-rte", recordings.pruning_config(0.5, 2), **options)
    assert np.allclose(trace["losses"], again.losses, atol=1e-3)
    assert list(trace["masks"]) == [entry["step"] for entry in again.history]
    assert trace["sparsity"][1] == 0.5


@given(st.integers(1, 9), st.integers(1, 20), st.data())
def test_masks_survive_packing(rows, columns, data):
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns)))
    mask = mask.reshape(rows, columns)
    packed = np.packbits(mask).tobytes().hex()
    assert (recordings._unpack(packed, [rows, columns]) == mask).all()


def test_churn_is_the_share_of_new_zeros():
    before, after = np.array([True, True, False, False]), np.array([False, True, True, False])
    assert recordings.churn(before, after) == 0.5
    assert recordings.churn(before, before) == 0.0
    assert recordings.churn(before, np.ones(4, dtype=bool)) == 0.0


def test_the_result_of_a_run_has_the_loss_of_each_step():
    result = finetune("pocket-rte", rows=some_of_pockets(), settings=SHORT, device="cpu", progress=False)
    assert isinstance(result, Result)
    assert len(result.losses) == result.steps == 7
    assert all(0 < loss < 5 for loss in result.losses)


def test_runs_of_earlier_settings_in_the_file_are_left_aside(tmp_path, one_run):
    list(recordings.record("pruning", folder=tmp_path))
    (run,) = read_records(tmp_path / "pruning.jsonl")
    append_record(tmp_path / "pruning.jsonl", run | {"key": [*run["key"][:-1], {"epochs": 9}], "seed": 7})
    assert recordings.load("pruning", folder=tmp_path).seed.tolist() == [0]


def test_the_answers_are_those_of_the_results():
    assert (recordings.FOLDER / "questions.csv").read_bytes() == (ROOT / "results" / "questions.csv").read_bytes()
    answers = recordings.load_answers()
    assert {"contrast", "difference", "low", "high", "margin", "verdict"} <= set(answers)
    assert answers["verdict"].str.startswith(("difference", "equal", "not", "unfinished")).all()


def test_the_ranks_of_adalora_are_those_of_the_results():
    runs = [run for name in ("pocket", "minilm_glue") for run in read_records(ROOT / "results" / f"{name}.jsonl")]
    pd.testing.assert_frame_equal(recordings.load_allocation(), allocations(runs).round(3))


def test_an_answer_is_a_row_of_the_table_in_words():
    row = recordings.load_answers().set_index("question").loc["input norm"]
    contrast, size, verdict = recordings.answer("input norm").split("\n  ")
    assert contrast == row["contrast"]
    assert size == f"{row['difference']:+.1f} points, 95 % interval {row['low']:.1f} to {row['high']:.1f}"
    assert verdict == f"{row['seeds']} seeds on pocket-cola, pocket-mrpc: {row['verdict']}"


def test_an_answer_at_the_best_rates_follows_the_first(monkeypatch):
    answers = recordings.load_answers()
    first = answers[answers["question"] == "input norm"]
    best = first.assign(question="input norm, best rates", difference=1.04, low=-0.46, high=2.5)
    best = best.assign(verdict="not decided: needs about 79 seeds")
    alone = recordings.answer("input norm")
    for more, added in (
        (best, "\n  at the best learning rates +1.0 (-0.5 to 2.5): not decided"),
        (best.assign(difference=np.nan, verdict="not run"), ""),
    ):
        monkeypatch.setattr(recordings, "load_answers", lambda more=more: pd.concat([answers, more]))
        assert recordings.answer("input norm") == alone + added


def test_a_mistyped_question_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'input norm'"):
        recordings.answer("input nrom")
