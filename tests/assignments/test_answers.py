"""The tests of the assignments, tested: solutions get all points, stubs none, wrong answers lose what they should."""

from dataclasses import asdict

import pytest

from prilora_lite.experiments import study
from prilora_lite.experiments.stored import COUNTS, RECORD
from tests.assignments import submissions
from tests.assignments.answers import WRONG
from tests.assignments.submissions import ASSIGNMENTS

ACCURACY = {"lora": (0.70, 0.74, 0.71), "mine": (0.71, 0.73, 0.735)}  # by seed; the difference spans zero


def made(accuracy):
    """In place of a training run: a record with this accuracy."""

    def make(plan, *_):
        record = {"key": plan.key, "name": plan.run.method.name, "encoder": plan.encoder, "task": plan.run.task}
        value = accuracy.get(plan.run.method.name, accuracy["lora"])[plan.run.seed % 3]
        record |= {
            "settings": asdict(plan.settings),
            "method": plan.trains.to_dict(),
            "counts": dict.fromkeys(COUNTS, 1),
        }
        record |= {"seed": plan.run.seed, "metrics": {"accuracy": value}, "curve": [], "pruning": [], "environment": {}}
        record |= dict.fromkeys(("steps", "seconds", "seconds_per_step"), 1)
        assert set(RECORD) <= set(record)
        return plan, record

    return make


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own_without_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "_make", made(ACCURACY))
    monkeypatch.setattr(study, "_check_encoders", lambda *_: None)  # nor is it tried out what would train


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_the_solution_passes_every_test(assignment):
    assert submissions.failed(assignment, submissions.perfect(assignment)) == set()


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_the_untouched_copy_passes_none(assignment):
    copied = submissions.notebook(assignment, "release")
    assert submissions.failed(assignment, copied) == set(submissions.points(assignment))


@pytest.mark.parametrize(
    ("assignment", "answer", "name"),
    [(a, answer, name) for a, answers in WRONG.items() for answer, names in answers.items() for name in names],
)
def test_a_wrong_answer_loses_the_points_it_should_and_no_others(assignment, answer, name):
    submission, lost = submissions.wrong(assignment, answer, name)
    assert submissions.failed(assignment, submission) == lost


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_every_answer_has_four_wrong_ones_and_every_test_is_failed_by_some(assignment):
    assert set(WRONG[assignment]) == set(submissions.solutions(assignment))
    assert all(len(names) >= 4 for names in WRONG[assignment].values())
    lost = [lost for names in WRONG[assignment].values() for _, lost in names.values()]
    assert set().union(*lost) == set(submissions.points(assignment))


@pytest.mark.parametrize(("below", "warns"), [((0.008, 0.010, 0.008), True), ((0.032, 0.024, 0.010), False)])
def test_an_interval_that_is_narrow_by_luck_comes_with_a_warning(below, warns, monkeypatch, capsys):
    """Accuracy moves in steps of 0.2 points: -0.8, -1.0 and -0.8 would be "below" without a word."""
    mine = tuple(lora - less for lora, less in zip(ACCURACY["lora"], below, strict=True))
    monkeypatch.setattr(study, "_make", made(ACCURACY | {"mine": mine}))
    assert submissions.failed("a4_ablation_report", submissions.perfect("a4_ablation_report")) == set()
    assert ("careful: the differences lie within 1 point" in capsys.readouterr().out) is warns


def test_an_unfrozen_base_is_told_by_a_test_that_learners_see(monkeypatch):
    submission, _ = submissions.wrong("a1_lora_layer", "a1_layer", "base not frozen")
    original = submissions.notebook
    monkeypatch.setattr(submissions, "notebook", lambda assignment, kind="source": original(assignment, "release"))
    assert submissions.failed("a1_lora_layer", submission) == {"a1_start_test"}


# Right answers in other words: assignment, answer, and what takes the solution's place
RIGHT = {
    "A and B split the scaling": (
        "a1_lora_layer", "a1_join",
        ("torch.cat([A1, A2]), torch.cat([s1 * B1, s2 * B2], dim=1)",
         "torch.cat([s1**0.5 * A1, s2**0.5 * A2]), torch.cat([s1**0.5 * B1, s2**0.5 * B2], dim=1)"),
    ),
    "single precision": (
        "a1_lora_layer", "a1_formula",
        ("x @ W.T + b + s * (x @ A.T) @ B.T", "(x @ W.T + b + s * (x @ A.T) @ B.T).float()"),
    ),
    "double precision in the average": ("a3_pruner", "a3_average", ("s = qs[0]", "s = qs[0].double()")),
    "single precision in the average": ("a3_pruner", "a3_average", ("return s", "return s.float()")),
    "the metric by its name": (
        "a4_ablation_report", "a4_table",
        ('next(iter(record["metrics"].values()))', 'record["metrics"][TASKS[record["task"]].metrics[0]]'),
    ),
    "einsum": ("a1_lora_layer", "a1_formula", ("(x @ A.T) @ B.T", "torch.einsum('...n,rn,mr->...m', x, A, B)")),
    "numpy's integers": (
        "a2_rank_schedule", "a2_line",
        ("[round(first + (last - first) * l / (num_layers - 1)) for l in range(num_layers)]",
         "list(__import__('numpy').rint(__import__('numpy').linspace(first, last, num_layers)).astype(int))"),
    ),
    "a regular expression": (
        "a2_rank_schedule", "a2_names",
        ('parts = name.split(".")',
         'import re\n\n    parts = name.split(".") if re.search(r"layer[.][0-9]", name) else []'),
    ),
    "double precision": ("a3_pruner", "a3_mean_square", (".square()", ".double().square()")),
    "all q kept": (
        "a3_pruner", "a3_pruner",
        ("self.s = q if self.s is None else moving_average([self.s, q], self.decay)",
         "self.qs = [*getattr(self, 'qs', []), q]\n        self.s = moving_average(self.qs, self.decay)"),
    ),
    "a slope": (
        "a4_ablation_report", "a4_methods",
        ("ratio=0.75", "first_rank=12, last_rank=4"),
    ),
    "another rule": (
        "a4_ablation_report", "a4_methods", ("ratio=0.75", "ratio=0.25, importance='magnitude', interval=10"),
    ),
    "half the layers": (
        "a4_ablation_report", "a4_methods",
        ("lora(8, ratio=0.75)", "lora(16, layers=range(6))"),
    ),
    "a slope as a list": (
        "a4_ablation_report", "a4_methods", ("ratio=0.75", "ratio=0, ranks=[4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11, 12]"),
    ),
    "LoRA in other words": (
        "a4_ablation_report", "a4_methods",
        ("PRILoRAConfig.lora(8),", "PRILoRAConfig(first_rank=8, last_rank=8, ratio=0),"),
    ),
    "mine first": (
        "a4_ablation_report", "a4_methods",
        ("METHODS = {", 'METHODS = {\n    "mine": PRILoRAConfig.lora(8, ratio=0.75),'),
    ),
    "two steps": ("a4_ablation_report", "a4_methods", ("ratio=0.75", "ratio=0, ranks=(4,) * 6 + (12,) * 6")),
    "a scaling of each layer's own": (
        "a4_ablation_report", "a4_methods", ("ratio=0.75", "ratio=0, scaling=[1.0, 3.0] * 6"),
    ),
    "half the layers, their ranks as a list": (
        "a4_ablation_report", "a4_methods", ("ratio=0.75", "ratio=0, ranks=[16] * 12, layers=range(6)"),
    ),
    "sorted by value": (
        "a4_ablation_report", "a4_table", ("pd.DataFrame(rows)", "pd.DataFrame(rows).sort_values('value')"),
    ),
    "zero inside it first": (
        "a4_ablation_report", "a4_claim",
        ("    if low > 0:", "    if low <= 0 <= high:\n        return 'no difference shown'\n    if low > 0:"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_in_other_words_passes(name):
    assignment, answer, (before, after) = RIGHT[name]
    answers = submissions.solutions(assignment)
    assert answers[answer].count(before) == 1
    answers[answer] = answers[answer].replace(before, after)
    assert submissions.failed(assignment, submissions.answered(assignment, answers)) == set()
