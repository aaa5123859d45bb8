"""Questions that were written down before their runs: read, tuned, run, answered."""

import json
import subprocess
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from prilora_lite import PRILoRAConfig
from prilora_lite.cli import main
from prilora_lite.experiments import learning_rates
from prilora_lite.experiments.answers import answer, by_task, decisions, differences, markdown, report, table, write
from prilora_lite.experiments.asked_runs import training_split
from prilora_lite.experiments.comparison import decide
from prilora_lite.experiments.device import pick_precision
from prilora_lite.experiments.identity import digest_of, rows_digest
from prilora_lite.experiments.learning_rates import DIVERGED, RATE_SEEDS, RATES, choose_rate, chosen_rates
from prilora_lite.experiments.methods import METHODS
from prilora_lite.experiments.presets import settings_for
from prilora_lite.experiments.questions import read_questions
from prilora_lite.experiments.reporting import to_dataframe
from prilora_lite.experiments.stored import COUNTS, main_metric
from prilora_lite.experiments.study import read_runs
from prilora_lite.experiments.tasks import get_task, load_rows
from prilora_lite.shared.errors import Diverged
from prilora_lite.shared.records import read_records

RESULTS = Path(__file__).parents[2] / "results"
FILE = """
[arms]
lora = "lora"
rising = { first_rank = 2, last_rank = 4, ratio = 0 }

[[question]]
name = "slope"
asks = "Does the slope matter?"
why = "The method says so."
contrast = "rising minus flat"
plus = ["rising"]
minus = ["lora"]
tasks = ["cola", "rte"]
settings = { epochs = 1 }
seeds = { first = 100, count = 3 }
margin = 1
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "asked.toml"
    path.write_text(FILE)
    return path


def record(arm, task, seed, rate, value, epochs=1, encoder="pocket"):
    """A run as the study writes it."""
    trains = METHODS["lora"].trains if arm == "lora" else PRILoRAConfig(first_rank=2, last_rank=4, ratio=0)
    settings = asdict(replace(settings_for(encoder, task, trains), learning_rate=rate, epochs=epochs))
    method = trains.to_dict()
    return {
        "key": [task, seed, encoder, method, settings, "fp32", "0" * 16], "name": arm, "encoder": encoder,
        "settings": settings, "task": task, "method": method, "seed": seed, "metrics": {get_task(task).metric: value},
        "curve": [], "pruning": [], "counts": dict.fromkeys(COUNTS, 1), "steps": 1, "seconds_per_step": 1.0,
        "seconds": 1.0, "environment": {},
    }  # fmt: skip


def write_records(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))


def rates(best=2e-3):
    """Rates tried for both arms: the best one for LoRA is given, that of the other is 2e-3."""
    return [
        record(arm, task, seed, rate, 0.6 if rate == (best if arm == "lora" else 2e-3) else 0.58)
        for arm in ("lora", "rising")
        for task in ("cola", "rte")
        for seed in range(3)
        for rate in (1e-3, 2e-3, 4e-3, 8e-3)
    ]


# Reading


def test_a_file_of_questions_is_read(file):
    asked = read_questions(file)
    (question,) = asked.questions
    assert question.seeds == (100, 101, 102)
    assert asked.arms["lora"].trains == METHODS["lora"].trains
    assert asked.arms["rising"].trains == PRILoRAConfig(first_rank=2, last_rank=4, ratio=0)
    assert (asked.runs.name, asked.rates.name) == ("asked.jsonl", "asked_rates.jsonl")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("margin = 1", "margin = 0", "'slope': margin must be a number above 0, got 0"),
        ("margin = 1", "", "'slope' lacks margin"),
        ('plus = ["rising"]', 'plus = ["risin"]', r"unknown arm in .*: 'risin'|did you mean 'rising'"),
        ("first_rank = 2", "frst_rank = 2", "did you mean 'first_rank'"),
        ('lora = "lora"', 'lora = "lra"', "did you mean 'lora'"),
        ('"cola", "rte"', '"colla"', "did you mean 'cola'"),
        ("epochs = 1", "epoch = 1", "did you mean 'epochs'"),
        ("[[question]]", "[[questions]]", "did you mean 'question'"),
        ("[[question]]", "[question]", r"question must be one or more tables, each under \[\[question\]\] in two"),
        (FILE, "", "question must be one or more tables, .* got 'nothing'"),
        (FILE, 'question = ["Does it help?"]', r"question must be one or more tables, .* got \['Does it"),
        (FILE, "question = [1]", r"question must be one or more tables, .* got \[1\]"),
        (FILE, 'arms = "lora"', r"arms must be a table \[arms\], got 'lora'"),
        ("[arms]", "rows = 1\n[arms]", "rows must be the name of a folder, got 1"),
        ("[arms]", '[task]\nname = "mine"\n[arms]', r"asked.toml: \[task\] lacks columns"),
        ("margin = 1", "margn = 1", "did you mean 'margin'"),
        ("margin = 1", 'margin = 1\n[picture.Ranks]\nslpe = "rising"', "picture 'Ranks': 'slpe': did you mean 'slope'"),
        (
            "margin = 1",
            "margin = 1\n[picture.Ranks]\nslope = 1",
            r"must have lines of QUESTION = LABEL, got {'slope': 1}",
        ),
        ("margin = 1", 'margin = 1\n[picture]\nslope = "rising"', r"\[picture.'slope'\] must have lines of QUESTION"),
        ("{ first = 100, count = 3 }", "5", r"seeds must be \{ first = NUMBER, .* below 2\*\*32, got 5"),
        ("count = 3", "count = 1", "seeds must be"),
        ("first = 100", "frst = 100", "seeds must be"),
        ('plus = ["rising"]', 'plus = "rising"', "plus must be a list of names, got 'rising'"),
        ('tasks = ["cola", "rte"]', "tasks = []", "tasks must be a list of names"),
        ("{ epochs = 1 }", "1", "settings must be a table"),
        ("{ epochs = 1 }", "{ epochs = -1 }", "question 'slope': epochs must be a finite number above 0, got -1"),
        ("{ epochs = 1 }", '{ epochs = "1" }', "question 'slope': epochs must be a finite number above 0, got '1'"),
        ("first = 100", "first = 4294967295", r"seeds must be .* below 2\*\*32"),
        (
            'plus = ["rising"]',
            'plus = ["lora"]',
            "question 'slope': plus and minus are the same, so there is nothing to",
        ),
        ('plus = ["rising"]', 'plus = ["rising", "rising"]', "plus must be names that are all different"),
        ('"cola", "rte"', '"cola", "cola"', "tasks must be names that are all different"),
        ('plus = ["rising"]', 'plus = ["rising", "lora"]', "'slope': lora stands in plus and in minus"),
        (FILE, 'tasks = ["cola"]\nseeds = [0]', r"describes a study: prilora-lite ablate .*\.toml .* report .*\.jsonl"),
        ("margin = 1", 'margin = 1\nrates = "bst"', "did you mean 'best'"),
        ("margin = 1", "margin = 1\nrates = 1", "unknown rule for rates"),
        ("[arms]", "[arms", "is not TOML"),
    ],
)
def test_mistakes_in_a_file_are_named(file, old, new, message):
    file.write_text(FILE.replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_questions(file)


def test_a_file_may_begin_with_a_byte_order_mark(file):
    file.write_text(FILE, encoding="utf-8-sig")
    assert [question.name for question in read_questions(file).questions] == ["slope"]


def test_two_questions_of_one_name_are_refused(file):
    file.write_text(FILE + FILE[FILE.index("[[question]]") :])
    with pytest.raises(ValueError, match="two questions are called 'slope'"):
        read_questions(file)


# Learning rates


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ({1e-3: 0.5, 2e-3: 0.6, 4e-3: 0.55}, (2e-3, [])),
        ({1e-3: 0.5, 2e-3: 0.6, 4e-3: 0.7}, (None, [8e-3])),  # the best is the last
        ({1e-3: 0.7, 2e-3: 0.6, 4e-3: 0.5}, (None, [5e-4])),  # the best is the first
        ({1e-3: 0.6, 2e-3: 0.7, 4e-3: 0.1}, (None, [5e-4])),  # 2e-3 stands at the cliff
        ({1e-3: 0.6, 2e-3: 0.7, 4e-3: 0.55}, (2e-3, [])),  # a loss, but no collapse
        ({5e-4: 0.5, 1e-3: 0.6, 2e-3: 0.7, 4e-3: 0.1}, (1e-3, [])),
        ({1e-3: 0.7, 2e-3: 0.1, 4e-3: 0.1}, (None, [5e-4])),
        ({5e-4: 0.69, 1e-3: 0.7, 2e-3: 0.1, 4e-3: 0.1}, (None, [2.5e-4])),
        ({2.5e-4: 0.6, 5e-4: 0.69, 1e-3: 0.7, 2e-3: 0.1, 4e-3: 0.1}, (5e-4, [])),
    ],
)
def test_a_rate_is_chosen_between_two_that_were_tried_and_not_at_a_cliff(means, expected):
    assert choose_rate(means) == expected


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ({1e-3: 0.6, 2e-3: 0.7, 4e-3: 0.1}, (2e-3, [])),
        ({1e-3: 0.5, 2e-3: 0.6, 4e-3: 0.55}, (2e-3, [])),
        ({1e-3: 0.7, 2e-3: 0.6, 4e-3: 0.5}, (None, [5e-4])),
        ({1e-3: 0.5, 2e-3: 0.6, 4e-3: 0.7}, (None, [8e-3])),
    ],
)
def test_the_best_rate_can_be_asked_for_though_it_stands_at_a_cliff(means, expected):
    assert choose_rate(means, "best") == expected


@pytest.mark.parametrize("rule", ["safe", "best"])
@pytest.mark.parametrize(
    ("values", "expected"),
    [((0.4, 0.5, 0.5), (2e-3, [])), ((0.5, 0.5, 0.4), (None, [5e-4]))],
)
def test_of_equal_rates_the_middle_one_is_chosen_or_the_lower_of_two(values, expected, rule):
    assert choose_rate(dict(zip(RATES, values, strict=True)), rule) == expected


@pytest.mark.parametrize("rule", ["safe", "best"])
@pytest.mark.parametrize("same", [0.5, DIVERGED])
def test_where_all_rates_do_the_same_lower_ones_are_tried_until_one_differs(same, rule):
    assert choose_rate(dict.fromkeys(RATES, same), rule) == (None, [5e-4])
    chosen, tried = learning_rates._search(lambda rate: 0.8 if rate < 3e-4 else same, rule)
    assert (chosen, min(tried)) == (1.25e-4, 6.25e-5)
    assert learning_rates._search(lambda rate: 0.4 if rate < 6e-4 else 0.5, rule)[0] == 2e-3  # the middle of the others


@pytest.mark.parametrize("same", [0.5, DIVERGED])
def test_an_arm_that_does_the_same_at_all_rates_has_none_and_its_question_no_answer(same, file, monkeypatch):
    monkeypatch.setattr(learning_rates, "LOWEST", 5e-4)
    asked = read_questions(file)
    runs = [
        record(arm, task, seed, rate, 0.5)
        for arm, task, seed, rate in product(("lora", "rising"), ("cola", "rte"), RATE_SEEDS, (5e-4, *RATES))
    ]
    write_records(asked.rates, [run | ({"error": "Diverged: NaN"} if same == DIVERGED else {}) for run in runs])
    shown = "diverged" if same == DIVERGED else "50.0"
    said = rf"rising did the same \({shown}\) at all learning rates from 0.0005 to 0.004"
    with pytest.raises(LookupError, match=said):
        chosen_rates(asked, asked.questions[0])
    assert table(asked)["difference"].isna().all()

    def made(runs, *rest):
        if same == DIVERGED:
            raise Diverged("NaN")
        return [record("rising", run.task, run.seed, 1e-3, same) for run in runs]

    monkeypatch.setattr(learning_rates, "make_runs", made)
    monkeypatch.setattr(learning_rates, "load_rows", lambda task, rows: load_rows("pocket-rte"))
    with pytest.raises(ValueError, match=said):
        learning_rates.tune(asked, asked.questions[0], "rising", None, 1, print)


@pytest.mark.parametrize(
    "value", [lambda rate: rate, lambda rate: -rate, lambda rate: 0.5, lambda rate: 300 * rate % 1]
)
def test_whatever_the_metric_does_the_search_ends(value):
    means = {rate: value(rate) for rate in RATES}
    rate, wanted = choose_rate(means)
    while wanted:
        means |= {new: value(new) for new in wanted}
        rate, wanted = choose_rate(means)
    assert rate in means or set(means.values()) == {0.5}
    assert len(means) <= 14


def test_rates_are_judged_on_training_rows_that_were_not_trained_on():
    rows = load_rows("pocket-rte")["train"]
    split = training_split("pocket-rte", rows)
    texts = [{(r["sentence1"], r["sentence2"], r["label"]) for r in split[name]} for name in ("train", "validation")]
    assert len(split["train"]) == 4 * len(split["validation"]) == 1600
    assert texts[0] | texts[1] == {(r["sentence1"], r["sentence2"], r["label"]) for r in rows}
    assert split["train"]["sentence1"][:50] != rows["sentence1"][:50]  # in another order
    assert training_split("pocket-rte", rows)["train"]["sentence1"] == split["train"]["sentence1"]  # for every arm
    assert set(training_split("mnli", rows)) == {"train", *get_task("mnli").splits}
    assert len(get_task("mnli").splits) == 2


def test_more_training_rows_than_rates_are_chosen_on_are_refused_with_the_reason(file):
    file.write_text(FILE.replace('"cola", "rte"', '"pocket-rte"').replace("epochs = 1", "train_rows = 1800"))
    asked = read_questions(file)
    said = r"train_rows=1800, but learning rates are chosen on four fifths of .* pocket-rte, which are 1600: give 1600"
    with pytest.raises(ValueError, match=said):
        learning_rates.tune(asked, asked.questions[0], "lora", None, 1, print)


def test_each_arm_has_the_rate_that_was_best_for_it(file):
    asked = read_questions(file)
    write_records(asked.rates, rates(best=4e-3))
    chosen = chosen_rates(asked, asked.questions[0])
    assert {arm: rate for arm, (rate, _) in chosen.items()} == {"lora": 4e-3, "rising": 2e-3}
    assert set(chosen["lora"][1]) == {1e-3, 2e-3, 4e-3, 8e-3}


def test_a_question_can_ask_for_the_best_rates(file):
    collapse = [record("rising", task, seed, 4e-3, 0.1) for task in ("cola", "rte") for seed in RATE_SEEDS]
    better = [r for r in rates(best=2e-3) if not (r["name"] == "rising" and r["settings"]["learning_rate"] == 4e-3)]
    lower = [record("rising", task, seed, 5e-4, 0.3) for task in ("cola", "rte") for seed in RATE_SEEDS]
    chosen = {}
    for rule in ("safe", "best"):
        file.write_text(FILE + f'rates = "{rule}"\n')
        asked = read_questions(file)
        write_records(asked.rates, better + collapse + lower)
        chosen[rule] = chosen_rates(asked, asked.questions[0])["rising"][0]
    assert chosen == {"safe": 1e-3, "best": 2e-3}


def test_all_arms_can_be_given_the_rate_of_one(file):
    file.write_text(FILE + 'rate_of = "lora"\n')
    asked = read_questions(file)
    write_records(asked.rates, rates(best=4e-3))
    assert set(chosen_rates(asked, asked.questions[0])) == {"lora"}


# Answers


def study_of(asked, noise=0.01, effect=0.0, seeds=(100, 101, 102)):
    random = np.random.default_rng(0)
    write_records(asked.rates, rates())
    records = [
        record(arm, task, seed, 2e-3, 0.6 + effect * (arm == "rising") + noise * random.normal())
        for seed in seeds
        for task in ("cola", "rte")
        for arm in ("lora", "rising")
    ]
    write_records(asked.runs, records)
    return records


def test_an_answer_is_paired_by_seed_over_the_mean_of_the_tasks(file):
    asked = read_questions(file)
    value = {(r["method"]["last_rank"], r["task"], r["seed"]): main_metric(r)[1] for r in study_of(asked)}
    by_hand = [
        100 * sum(value[4, task, seed] - value[8, task, seed] for task in ("cola", "rte")) / 2
        for seed in (100, 101, 102)
    ]
    found = differences(asked, asked.questions[0])
    assert found.tolist() == pytest.approx(by_hand)
    (row,) = table(asked).to_dict("records")
    test = stats.ttest_1samp(by_hand, 0)
    low, high = test.confidence_interval(0.95)
    assert (row["difference"], row["low"], row["high"]) == pytest.approx((np.mean(by_hand), low, high), abs=0.0006)
    assert row["verdict"] == decide(by_hand, 1).verdict


def test_what_was_tried_for_another_question_makes_no_difference(file):
    asked = read_questions(file)
    more = [record("lora", task, seed, 1e-3 / 2, 0.9) for task in ("cola", "rte") for seed in range(3)]
    write_records(asked.rates, rates() + more)
    rate, tried = chosen_rates(asked, asked.questions[0])["lora"]
    assert (rate, list(tried)) == (2e-3, [1e-3, 2e-3, 4e-3])


def test_arms_on_different_rows_are_not_compared(file):
    asked = read_questions(file)
    records = study_of(asked)
    for run in records:
        run["key"][6] = ("a" if run["name"] == "lora" else "b") * 16
    write_records(asked.runs, records)
    with pytest.raises(
        ValueError, match=r"question 'slope' on cola can't be compared: some were made with rows [ab]{16}"
    ):
        report(asked)


def test_one_line_twice_is_one_run(file):
    asked = read_questions(file)
    records = study_of(asked)
    before = report(asked)
    write_records(asked.runs, [*records, records[0]])
    assert report(asked) == before


def test_a_run_that_is_stored_twice_counts_with_its_first_score_and_that_is_said(file):
    asked = read_questions(file)
    records = study_of(asked)
    before, runs = report(asked), to_dataframe(read_runs(asked.runs))
    again = [{**r, "metrics": {name: value + 0.1 for name, value in r["metrics"].items()}} for r in records[:3]]
    write_records(asked.runs, [*records, *again])
    with pytest.warns(UserWarning, match=r"holds 3 runs a second time, with another score, .*: the first counts"):
        assert report(asked) == before
    with pytest.warns(UserWarning, match="the first counts"):
        assert to_dataframe(read_runs(asked.runs)).equals(runs)


def test_a_text_over_two_lines_and_with_a_bar_keeps_to_its_cell_and_is_written_again(file, tmp_path):
    file.write_text(FILE.replace('"rising minus flat"', '"""rising |\nminus flat"""'))
    asked = read_questions(file)
    study_of(asked)
    for _ in range(2):
        written = write(asked, tmp_path / "out")["markdown"].read_text()
    assert "| slope | rising \\| minus flat | cola, rte |" in written


def test_runs_at_other_rates_or_seeds_do_not_count(file):
    asked = read_questions(file)
    records = study_of(asked)
    more = [record("rising", "cola", 103, 2e-3, 0.9), record("rising", "cola", 100, 4e-3, 0.9)]
    before = table(asked)
    write_records(asked.runs, records + more)
    pd.testing.assert_frame_equal(table(asked), before)


def test_a_question_that_a_run_without_a_score_keeps_open_says_so(file):
    asked = read_questions(file)
    records = study_of(asked)
    lost = next(r for r in records if r["seed"] == 101)
    lost["metrics"] = {name: float("nan") for name in lost["metrics"]}
    write_records(asked.runs, records)
    (verdict,) = table(asked)["verdict"]
    assert verdict.startswith("unfinished: 2 of 3 seeds run (runs without a finite score: 1; take them out")


def test_a_question_whose_seeds_are_not_all_there_has_no_answer(file):
    asked = read_questions(file)
    study_of(asked, seeds=(100, 101))
    assert decisions(asked) == {"slope": None}
    assert table(asked)["verdict"].tolist() == ["unfinished: 2 of 3 seeds run"]
    assert table(asked)["difference"].isna().all()
    assert "unfinished: 2 of 3 seeds run" in " ".join(report(asked).split())


def test_a_question_whose_rates_are_not_chosen_has_no_answer(file):
    asked = read_questions(file)
    assert decisions(asked) == {"slope": None}
    assert table(asked)["verdict"].tolist() == ["not run"]
    assert by_task(asked).empty


def test_the_mean_of_the_tasks_differences_is_the_questions(file):
    asked = read_questions(file)
    study_of(asked)
    tasks = by_task(asked)
    assert tasks["task"].tolist() == ["cola", "rte"]
    assert tasks["difference"].mean() == pytest.approx(table(asked)["difference"].item(), abs=0.0006)
    for row in tasks.itertuples():
        file.write_text(FILE.replace('["cola", "rte"]', f'["{row.task}"]'))
        write_records(asked.rates, rates())  # the rates of the question, not the task's own
        alone = table(read_questions(file)).iloc[0]
        assert (row.low, row.high) == pytest.approx((alone["low"], alone["high"]), abs=0.0006)


def test_one_run_on_two_kinds_of_rows_is_refused(file):
    asked = read_questions(file)
    records = study_of(asked)
    other = json.loads(json.dumps(records[0]))
    other["key"][6] = "1" * 16
    write_records(asked.runs, [*records, other])
    with pytest.raises(ValueError, match="on other rows or at another precision"):
        table(asked)


def test_the_report_fits_a_terminal_and_says_the_sentence(file):
    asked = read_questions(file)
    study_of(asked, noise=0.0001, effect=0.05)
    text = report(asked)
    assert max(map(len, text.split("\n"))) <= 80
    assert "That is a difference." in " ".join(text.split())


def test_the_report_of_some_questions_has_these_alone(file):
    again = FILE.split("[[question]]")[1].replace("slope", "tilt")
    file.write_text(file.read_text() + "\n[[question]]" + again)
    asked = read_questions(file)
    assert report(asked, ["tilt"]).startswith("Does the tilt matter?")
    assert report(asked) == f"{report(asked, ['slope'])}\n\n{report(asked, ['tilt'])}"


def test_seeds_whose_arms_ran_on_several_machines_are_counted_beside_the_answer(file):
    asked = read_questions(file)
    records = study_of(asked)
    said = "of its seeds were run on several machines"
    for run in records:
        run["environment"] = {"machine": "a GPU" if run["seed"] == 100 else "a CPU"}
    write_records(asked.runs, records)  # seeds on several machines, but each pair on one
    assert said not in report(asked) + markdown(asked, table(asked))
    lora = next(run for run in records if run["name"] == "lora" and run["seed"] == 101)
    lora["environment"] = {"machine": "a GPU"}
    write_records(asked.runs, records)
    assert f"1 {said}" in " ".join(report(asked).split())
    assert "| slope | 101 |" in markdown(asked, table(asked))
    for _ in range(2):  # what was written is known again
        write(asked, file.with_name("out"))
    assert table(asked)["settings"].item().endswith("; seeds run on several machines: 1")


def test_table_and_figure_are_written_and_read_back(file, tmp_path):
    asked = read_questions(file)
    study_of(asked)
    paths = write(asked, tmp_path / "out")
    pd.testing.assert_frame_equal(pd.read_csv(paths["table"]), table(asked), check_dtype=False)
    assert paths["figure"].read_bytes().startswith(b"\x89PNG")
    assert "| slope | rising | 0.002 | 0.001: 58.0, 0.002: 60.0, 0.004: 58.0 |" in paths["markdown"].read_text()


def test_answers_that_are_chosen_have_a_picture_of_their_own(file, tmp_path):
    file.write_text(FILE + '[picture."Ranks that rise"]\nslope = "minus flat ones"\n')
    asked = read_questions(file)
    study_of(asked)
    paths = write(asked, tmp_path / "out")
    assert paths["chosen"].name == "out_chosen.png"
    assert paths["chosen"].read_bytes().startswith(b"\x89PNG")


def asked_of(encoder, file):
    """A question that a small encoder answers in seconds; of classes it would say the same at every rate."""
    settings = "{ epochs = 1, batch_size = 8, max_length = 16 }"
    file.write_text(
        FILE.replace('"cola", "rte"', '"stsb"').replace("{ epochs = 1 }", settings).replace("count = 3", "count = 2")
        + f'encoder = "{encoder}"\nrate_of = "lora"\n'
    )
    return read_questions(file)


def test_it_runs_from_nothing_to_an_answer_and_goes_on_where_it_was(file, monkeypatch, encoder, rows):
    monkeypatch.setattr(learning_rates, "LOWEST", min(RATES))  # a random encoder's metric would send it to and fro
    monkeypatch.setattr(learning_rates, "HIGHEST", max(RATES))
    asked = asked_of(encoder, file)
    lines = []
    answer(asked, rows=rows, tell=lines.append)
    assert any("learning rate" in line for line in lines)
    (row,) = table(asked).to_dict("records")
    assert row["seeds"] == 2
    assert np.isfinite(row["difference"])
    before = asked.runs.read_bytes(), asked.rates.read_bytes()
    assert len({json.loads(line)["key"][6] for line in asked.rates.read_text().splitlines()}) == 1
    assert main(["ask", str(file), "--rows", str(rows)]) == 0
    assert (asked.runs.read_bytes(), asked.rates.read_bytes()) == before
    assert file.with_suffix(".csv").is_file()


def test_a_rate_at_which_training_diverges_is_no_end_of_the_search(file, monkeypatch, encoder, rows):
    monkeypatch.setattr(learning_rates, "RATES", (1e-3, 1e30))
    monkeypatch.setattr(learning_rates, "LOWEST", 1e-3)
    monkeypatch.setattr(learning_rates, "RATE_SEEDS", (0,))
    asked = asked_of(encoder, file)
    lines = []
    answer(asked, rows=rows, tell=lines.append)
    assert chosen_rates(asked, asked.questions[0])["lora"] == (1e-3, {1e-3: ANY, 1e30: DIVERGED})
    assert any("1e+30 (diverged)" in line for line in lines)
    assert "1e+30: diverged" in markdown(asked, table(asked))
    assert table(asked)["difference"].notna().all()


def test_a_rate_counts_as_diverged_only_where_a_run_says_so(file):
    file.write_text(FILE + 'rates = "best"\n')
    asked = read_questions(file)
    tried = rates(best=2e-3)
    lost = next(r for r in tried if r["name"] == "lora" and r["settings"]["learning_rate"] == 4e-3)
    for error, expected in ((None, LookupError), ("MemoryError: none left", LookupError), ("Diverged: NaN", 2e-3)):
        crash = [] if error is None else [lost | {"error": error}]
        write_records(asked.rates, [*(r for r in tried if r is not lost), *crash])
        if expected is LookupError:
            with pytest.raises(LookupError, match="the learning rate of lora is not chosen yet"):
                chosen_rates(asked, asked.questions[0])
        else:
            assert chosen_rates(asked, asked.questions[0])["lora"][0] == expected


def test_mended_rows_are_refused_before_the_first_run_and_leave_the_answers(tmp_path, encoder, rows, capsys):
    file = tmp_path / "asked.toml"
    file.write_text(FILE.replace('"cola", "rte"', '"cola"') + f'encoder = "{encoder}"\n')
    asked = read_questions(file)
    earlier = record("lora", "cola", 0, 1e-3, 0.5, encoder=encoder)
    earlier["key"] = [*earlier["key"][:5], pick_precision("auto", encoder), "0" * 16, "1" * 16]
    write_records(asked.runs, [earlier])
    assert main(["ask", str(file), "--rows", str(rows)]) == 2
    assert "holds runs on cola with rows 0000000000000000, and now they are" in capsys.readouterr().err
    assert not asked.rates.exists()


def test_runs_at_another_precision_stop_the_question_that_compares_them_and_no_other(file, encoder, rows, tmp_path):
    text = FILE.replace('"cola", "rte"', '"cola"').replace("epochs = 1", "epochs = 1, max_length = 32")
    file.write_text(text + f'encoder = "{encoder}"\nrate_of = "lora"\n')
    asked = read_questions(file)
    whole = load_rows("cola", rows)

    def on_a_gpu(seed, rate, data):
        made = record("lora", "cola", seed, rate, 0.5 + 0.1 * (rate == 2e-3), encoder=encoder)
        task, _, known_by, trains, settings, *_ = made["key"]
        rest = ["bf16", rows_digest(get_task("cola"), data), digest_of(encoder)]
        return made | {"key": [task, seed, known_by, trains, settings | {"max_length": 32}, *rest]}

    part = training_split("cola", whole["train"])
    write_records(asked.rates, [on_a_gpu(seed, rate, part) for seed in RATE_SEEDS for rate in RATES])
    trials = asked.rates.read_bytes()
    write_records(asked.runs, [on_a_gpu(99, 2e-3, whole)])  # of a question with other seeds
    answer(asked, rows=rows, tell=lambda line: None)
    assert [r["seed"] for r in read_records(asked.runs)] == [99, 100, 101, 102, 100, 101, 102]
    assert asked.rates.read_bytes() == trials

    write_records(asked.runs, [on_a_gpu(100, 2e-3, whole)])
    with pytest.raises(ValueError, match="holds runs on cola with precision bf16, and now they are fp32"):
        answer(asked, rows=rows, tell=lambda line: None)


def test_a_question_whose_runs_are_all_there_needs_neither_rows_nor_encoder(file, tmp_path):
    asked = read_questions(file)
    before = study_of(asked)
    lines = []
    answer(asked, rows=tmp_path / "nowhere", tell=lines.append)
    assert lines == ["slope: Does the slope matter?", "  all its runs are there"]
    assert read_records(asked.runs) == before


def test_an_unknown_question_is_named(file):
    with pytest.raises(ValueError, match="did you mean 'slope'"):
        answer(read_questions(file), names=["slop"])


# The study's own


@pytest.fixture(scope="module")
def asked():
    return read_questions(RESULTS / "questions.toml")


def test_the_studys_seeds_are_none_of_a_pilots(asked):
    assert all(min(question.seeds) >= 100 for question in asked.questions)
    assert max(RATE_SEEDS) < 100


def test_table_and_figure_of_the_study_are_made_from_its_raw_runs(asked, tmp_path):
    paths = write(asked, tmp_path / "questions")
    for kind in ("table", "markdown"):
        assert paths[kind].read_bytes() == (RESULTS / paths[kind].name).read_bytes()
    assert paths["figure"].read_bytes()[:4] == (RESULTS / "questions.png").read_bytes()[:4]


def test_the_questions_were_written_down_before_their_runs(asked):
    """By the repository's history, where there is one: the file's first version is older than the first runs."""

    def first(name):
        command = ["git", "-C", str(RESULTS.parent), "log", "--diff-filter=A", "--format=%ct", "--", f"results/{name}"]
        found = subprocess.run(command, capture_output=True, text=True)
        return [int(time) for time in found.stdout.split()] if found.returncode == 0 else []

    questions, runs = first("questions.toml"), first("questions.jsonl")
    if not (questions and runs):
        pytest.skip("no history here")
    assert min(questions) < min(runs)


def t_quantile(level, freedom):
    """By numpy alone: the density of Student's t, summed up finely, and searched."""
    t = np.linspace(-60, 60, 1_200_001)
    log_density = -(freedom + 1) / 2 * np.log1p(t**2 / freedom)
    density = np.exp(log_density)
    below = np.cumsum(density) / density.sum()
    return t[np.searchsorted(below, level)]


@pytest.mark.parametrize(
    ("name", "plus", "minus"),
    [
        ("one scaling for rising ranks", {"last_rank": 12, "scaling": "mean"}, {"last_rank": 12, "scaling": "layer"}),
        ("tilted scaling on flat ranks", {"last_rank": 8, "tilted": True}, {"last_rank": 8, "tilted": False}),
    ],
)
def test_a_verdict_follows_from_the_raw_runs_by_numpy_alone(name, plus, minus):
    """Read by hand: pocket-rte, half an epoch, LoRA's rate, no pruning, seeds 100 to 159."""
    values = {}
    for line in (RESULTS / "questions.jsonl").read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        method, settings = run["method"], run["settings"]
        here = run["task"] == "pocket-rte" and (settings["epochs"], settings["learning_rate"]) == (0.5, 0.004)
        if here and not method["ratio"] and method["layers"] is None and 100 <= run["seed"] < 160:
            tilted = isinstance(method["scaling"], list)
            for arm, wanted in (("plus", plus), ("minus", minus)):
                found = method | {"tilted": tilted}
                if all(found[key] == value for key, value in wanted.items()):
                    values[arm, run["seed"]] = 100 * run["metrics"]["accuracy"]
    d = np.array([values["plus", seed] - values["minus", seed] for seed in range(100, 160)])
    error = d.std(ddof=1) / np.sqrt(len(d))
    low, high = d.mean() - t_quantile(0.975, 59) * error, d.mean() + t_quantile(0.975, 59) * error
    inner = t_quantile(0.95, 59) * error
    row = pd.read_csv(RESULTS / "questions.csv").set_index("question").loc[name]
    assert (row["difference"], row["low"], row["high"]) == pytest.approx((d.mean(), low, high), abs=0.0006)
    expected = (
        "difference" if low > 0 or high < 0 else "equal" if abs(d.mean()) + inner < row["margin"] else "not decided"
    )
    assert row["verdict"].startswith(expected)
