"""The tables of results/README.md that no command writes, computed once more from the raw runs."""

import csv
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from statsmodels.stats.multitest import multipletests
from transformers import DataCollatorWithPadding

from prilora_lite import TASKS, PRILoRAConfig, Pruner, adapt, keep_mask, load_encoder, load_rows
from prilora_lite.experiments.answers import decisions, differences
from prilora_lite.experiments.asked_runs import diverged_keys, keys_of, values_by_key
from prilora_lite.experiments.finetune import tokenize
from prilora_lite.experiments.learning_rates import RATE_SEEDS, chosen_rates
from prilora_lite.experiments.questions import read_questions
from prilora_lite.shared.records import read_records

RESULTS = Path(__file__).parent.parent / "results"
PAGE = (RESULTS / "README.md").read_text(encoding="utf-8")
MRPC, RTE, COLA, SST2 = "pocket-mrpc", "pocket-rte", "pocket-cola", "pocket-sst2"
FAILS = 60.0  # percent


@pytest.fixture(scope="module")
def scores():
    """(arm, task, learning rate, epochs) -> seed -> the main metric, in percent."""
    found = defaultdict(dict)
    for record in read_records(RESULTS / "questions.jsonl"):
        settings = record["settings"]
        where = record["name"], record["task"], settings["learning_rate"], settings["epochs"]
        if record["encoder"] == "pocket":
            found[where][record["seed"]] = 100 * next(iter(record["metrics"].values()))
    return found


def over_seeds(scores, arm, tasks, rate, epochs, seeds):
    """(seeds, tasks) of the main metric."""
    return np.array([[scores[arm, task, rate, epochs][seed] for task in tasks] for seed in seeds])


def said(differences):
    """As the page writes it: mean (low to high)."""
    mean, half = differences.mean(), stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences)
    return f"{mean:+.1f} ({mean - half:.1f} to {mean + half:.1f})"


BEST_AND_CAUTIOUS = [  # arm, tasks, best rate, cautious rate, epochs, seeds
    ("lora", (MRPC, RTE), 0.002, 0.001, 6, range(100, 120)),
    ("lora_6", (MRPC, RTE), 0.002, 0.001, 6, range(100, 120)),
    ("prilora", (MRPC, RTE), 0.002, 0.001, 6, range(100, 120)),
    ("lora", (MRPC, RTE), 0.004, 0.002, 1, range(720, 770)),
    ("prilora", (MRPC, RTE), 0.004, 0.002, 1, range(400, 450)),
    ("prilora", (COLA, MRPC), 0.004, 0.002, 1, range(200, 250)),
    ("at_the_end_90", (MRPC, RTE), 0.004, 0.002, 1, range(100, 140)),
    ("at_the_start_90", (MRPC, RTE), 0.008, 0.004, 1, range(100, 140)),
    ("three_on_top", (COLA, SST2, MRPC, RTE), 0.008, 0.004, 0.5, range(100, 120)),
    ("one_everywhere", (COLA, SST2, MRPC, RTE), 0.004, 0.002, 0.5, range(100, 120)),
]


@pytest.mark.parametrize(("arm", "tasks", "best", "cautious", "epochs", "seeds"), BEST_AND_CAUTIOUS)
def test_the_page_says_what_the_best_rate_gave_over_the_cautious_one(scores, arm, tasks, best, cautious, epochs, seeds):
    high, low = (over_seeds(scores, arm, tasks, rate, epochs, seeds) for rate in (best, cautious))
    (table,) = re.findall(r"\| arm \| rates \| best minus cautious \|\n((?:\|.*\n)+)", PAGE)
    assert said((high - low).mean(axis=1)) in table
    assert f"{best:g}, {cautious:g}" in table


def test_the_page_says_what_the_best_rates_did_to_the_answers_at_cautious_ones():
    asked = read_questions(RESULTS / "questions.toml")
    by_name = {question.name: question for question in asked.questions}
    (table,) = re.findall(r"\| question \| best minus cautious \|\n((?:\|.*\n)+)", PAGE)
    rows = []
    for name, question in by_name.items():
        if again := by_name.get(f"{name}, best rates"):
            assert again.seeds == question.seeds
            rows.append(f"| {name} | {said(differences(asked, again) - differences(asked, question))} |")
    assert sorted(rows) == sorted(table.splitlines()[1:])


def test_the_page_says_how_many_rates_hang_on_one_trial_run():
    asked = read_questions(RESULTS / "questions.toml")
    with open(RESULTS / "questions.csv", encoding="utf-8") as file:
        answered = [each["question"] for each in csv.DictReader(file) if each["difference"]]
    values = dict.fromkeys(diverged_keys(asked.rates), -np.inf) | values_by_key(asked.rates)

    def best_and_cautious(question, arm, rates, seeds):
        def mean(rate):
            overrides = question.overrides(rate, tuning=True)
            runs = (keys_of(asked, question, arm, task, seeds, overrides) for task in question.tasks)
            return np.mean([values[key] for keys in runs for key in keys])

        means = {rate: mean(rate) for rate in rates}
        best = max(means, key=means.get)
        collapses = 2 * best in means and means[2 * best] < means[best] - 0.2
        return best, best / 2 if collapses else best

    hangs = {}  # arm and setting -> whether without one of the seeds another rate is best, or cautious
    questions = [each for each in asked.questions if each.name in answered]
    for question, arm in [(each, arm) for each in questions for arm in asked.rate_arms(each)]:
        setting = arm, question.encoder, question.tasks, question.settings
        rates = chosen_rates(asked, question)[arm][1]
        others = [[seed for seed in RATE_SEEDS if seed != without] for without in RATE_SEEDS]
        found = [best_and_cautious(question, arm, rates, seeds) for seeds in [RATE_SEEDS, *others]]
        hangs.setdefault(setting, [len(set(kind)) > 1 for kind in zip(*found, strict=True)])
    best, cautious = np.sum(list(hangs.values()), axis=0)
    expected = (
        f"without one of them, {best} of {len(hangs)} arms would have had another best rate, and {cautious} another "
        "cautious one"
    )
    assert expected in " ".join(PAGE.split()), f"results/README.md should say: {expected}"


def test_the_pages_say_how_many_answers_there_are_and_how_many_stand_once_corrected():
    found = [each for each in decisions(read_questions(RESULTS / "questions.toml")).values() if each is not None]
    corrected = {}
    for kind, verdict in (("p_difference", "difference"), ("p_equal", "equal")):
        stands = multipletests([getattr(each, kind) for each in found], method="holm")[1] < 0.05
        given = np.array([each.word == verdict for each in found])
        corrected[kind] = f"{(stands & given).sum()} of {given.sum()}"
    readme = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    for page, expected in (
        (PAGE, f"With {len(found)} answers at 5 % each"),
        (PAGE, f"if the two one-sided tests were, {corrected['p_equal']} would stand"),
        (readme, f"Corrected for so many questions, {corrected['p_difference']} differences"),
    ):
        assert expected in " ".join(page.split()), f"a page should say: {expected}"


def test_the_page_says_how_many_errors_are_left_after_six_epochs(scores):
    both = [np.mean(list(scores["lora", task, 0.002, 6].values())) for task in (MRPC, RTE)]
    assert f"LoRA answers {np.mean(both):.1f} % of the rows of pocket-mrpc and pocket-rte rightly" in " ".join(
        PAGE.split()
    )


ALL_AND_WITHOUT = {  # row -> plus and its rate, minus and its rate, tasks, seeds
    "PRILoRA minus a random half, 0.004": ("prilora", 0.004, "prilora_random", 0.004, (COLA, MRPC), range(300, 350)),
    "PRILoRA, a prune every step minus every 40 steps": (
        "prilora_each", 0.004, "prilora", 0.004, (MRPC, RTE), range(400, 450)),
    "PRILoRA, a prune every step minus LoRA": ("prilora_each", 0.004, "lora", 0.004, (MRPC, RTE), range(500, 550)),
    "the same, asked again over new seeds": ("prilora_each", 0.004, "lora", 0.004, (MRPC, RTE), range(720, 790)),
    "LoRA with s = 1.41 minus LoRA": ("lora_softer", 0.004, "lora", 0.004, (MRPC, RTE), range(720, 790)),
    "a random half minus LoRA": ("prilora_random", 0.004, "lora", 0.004, (MRPC, RTE), range(600, 650)),
    "nine tenths every 20 steps minus in the first step at 0.008": (
        "throughout_90", 0.004, "at_the_start_90", 0.008, (MRPC, RTE), range(100, 140)),
}  # fmt: skip


@pytest.mark.parametrize("row", ALL_AND_WITHOUT)
def test_the_page_says_what_is_left_of_a_difference_without_the_runs_that_fail(scores, row):
    plus, plus_rate, minus, minus_rate, tasks, seeds = ALL_AND_WITHOUT[row]
    first = over_seeds(scores, plus, tasks, plus_rate, 1, seeds)
    second = over_seeds(scores, minus, tasks, minus_rate, 1, seeds)
    good = (np.minimum(first, second) >= FAILS).all(axis=1)
    differences = (first - second).mean(axis=1)
    assert f"| {row} | {said(differences)} | {said(differences[good])} |" in PAGE


def test_the_page_says_what_both_studies_of_the_one_lead_give_together(scores):
    seeds = [*range(500, 550), *range(720, 790)]
    first, second = (over_seeds(scores, arm, (MRPC, RTE), 0.004, 1, seeds) for arm in ("prilora_each", "lora"))
    joined = said((first - second).mean(axis=1))
    assert f"All {len(seeds)} seeds together give {joined}" in " ".join(PAGE.split())
    (page,) = (RESULTS.parent / "notebooks").glob("08_*.ipynb")
    assert f"(All {len(seeds)} seeds together give {joined.replace(' (', ', ')[:-1]};" in page.read_text(
        encoding="utf-8"
    )


def test_the_page_says_how_rising_ranks_and_flat_ranks_compare_where_both_are_tilted(scores):
    seeds = range(100, 160)
    first, second = (over_seeds(scores, a, (RTE,), 0.004, 0.5, seeds) for a in ("rising_one_s", "flat_tilted_s"))
    differences = (first - second).mean(axis=1)
    joined = said(differences)
    assert f"Over the same sixty seeds they are equal within a point: {joined}" in " ".join(PAGE.split())
    (page,) = (RESULTS.parent / "notebooks").glob("03_*.ipynb")
    mean, half = differences.mean(), stats.t.ppf(0.95, len(differences) - 1) * stats.sem(differences)
    stated = f"equal within a point: {mean:+.1f}, 90 % interval {mean - half:.1f} to {mean + half:.1f}."
    assert stated in page.read_text(encoding="utf-8")


FAILING = {
    "LoRA of rank 8": "lora",
    "LoRA of rank 8 with s = 1.41 in place of 2": "lora_softer",
    "half of A, rank 8, a prune every 40 steps": "half",
    "half of A, PRILoRA, a prune every 40 steps": "prilora",
    "half of A, PRILoRA, a prune every step": "prilora_each",
    "half of A by importance, kept from the first step on": "prilora_first",
    "half of A at random, kept from the first step on": "prilora_random",
    "nine tenths every 20 steps": "throughout_90",
    "nine tenths every 20 steps, by magnitude alone": "magnitude_90",
    "nine tenths, chosen in the first step, kept": "at_the_start_90",
    "nine tenths at random, kept": "random_90",
    "nine tenths, once, in the last step": "at_the_end_90",
}


@pytest.mark.parametrize("arm", FAILING)
def test_the_page_says_how_many_runs_of_each_arm_fail(scores, arm):
    cells = []
    for rate in (0.002, 0.004, 0.008):
        values = np.array(list(scores.get((FAILING[arm], MRPC, rate, 1), {}).values()))
        cells.append(f"{(values < FAILS).sum()} of {len(values)}" if len(values) else "-")
    assert f"| {arm} | {' | '.join(cells)} |" in PAGE


@pytest.mark.parametrize("name", [MRPC, RTE])
def test_the_page_says_what_a_chosen_and_a_random_half_leave_of_what_a_passes_on(name):
    """The sum of the squared scores is the variance of A x where A is drawn independently of x."""
    torch.manual_seed(0)
    model, tokenizer = load_encoder("pocket", name)
    adapt(model, PRILoRAConfig())
    rows = tokenize(load_rows(name)["train"].select(range(64)), TASKS[name], tokenizer, max_length=64)
    pruner = Pruner(model.train())
    model(**DataCollatorWithPadding(tokenizer)(list(rows))).loss.backward()
    pruner.step()
    left = defaultdict(list)
    for scores in map(pruner.scores, pruner.layers):
        for half, by in (("chosen", scores), ("random", torch.rand_like(scores))):
            left[half].append((scores * keep_mask(by, 0.5)).square().sum() / scores.square().sum())
    assert [round(np.mean(left[half]), 1) for half in ("chosen", "random")] == [0.9, 0.5]
    assert "leaves nine tenths of the variance of A x, a random half leaves one half" in " ".join(PAGE.split())
