"""The tests of the assignments, tested: solutions get all points, stubs none, wrong answers lose what they should."""

import pytest

from prilora_lite import study
from tests.assignments import submissions
from tests.assignments.answers import WRONG
from tests.assignments.submissions import ASSIGNMENTS

ACCURACY = {"lora": (0.70, 0.74, 0.71), "mine": (0.71, 0.73, 0.735)}  # by seed; the difference spans zero


def made(accuracy):
    """In place of a training run: a record with this accuracy."""

    def make(plan, *_):
        record = {"key": plan.key, "name": plan.run.method.name, "encoder": plan.encoder, "task": plan.run.task}
        value = accuracy.get(plan.run.method.name, accuracy["lora"])[plan.run.seed]
        record |= {"settings": {"epochs": plan.settings.epochs}, "method": plan.trains.to_dict()}
        record |= {"seed": plan.run.seed, "metrics": {"accuracy": value}, "seconds": 0.0}
        return plan, dict.fromkeys(study.RECORD) | record

    return make


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own_without_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "_make", made(ACCURACY))


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


@pytest.mark.parametrize(
    ("mine", "claim"), [((0.80, 0.84, 0.81), "mine is above"), ((0.60, 0.64, 0.61), "mine is below")]
)
@pytest.mark.parametrize("said", ["mine is above", "mine is below", "no difference shown"])
def test_only_the_claim_that_the_runs_carry_passes(mine, claim, said, monkeypatch):
    monkeypatch.setattr(study, "_make", made(ACCURACY | {"mine": mine}))
    answers = submissions.solutions("a4_ablation_report") | {"a4_claim": f"CLAIM = {said!r}"}
    lost = submissions.failed("a4_ablation_report", submissions.answered("a4_ablation_report", answers))
    assert lost == (set() if said == claim else {"a4_claim_test"})
