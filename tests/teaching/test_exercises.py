"""The checks of the exercises: wrong answers are told why, right ones pass; a notebook shows the text alone."""

import math
import operator
import re
from fractions import Fraction
from functools import partial, wraps

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from prilora_lite import exercises as check
from prilora_lite.teaching.exercises.mine import PIECES
from tests.teaching.answers import importance, layer, norms, pruning, ranks, results, runs, training

PAGES = (layer, results, ranks, importance, norms, pruning, runs, training)
CHECKS = [getattr(check, name) for name in check.__all__ if name not in ("WrongAnswer", "my_pieces")]


def rows(table):
    return [pytest.param(*row, id=f"{row[0].__name__}-{place}") for place, row in enumerate(table)]


WRONG = [row for page in PAGES for row in page.WRONG]
RIGHT = [row for page in PAGES for row in page.RIGHT]
SLIPS = [(exercise, slip, sentence) for exercise in CHECKS for sentence, slip in exercise.exercise.each_slip()]
every = pytest.mark.parametrize("exercise", CHECKS, ids=lambda exercise: exercise.__name__)


def told(exercise, answer):
    """What a wrong answer is told."""
    with pytest.raises(check.WrongAnswer) as error:
        exercise(answer)
    return str(error.value)


@pytest.mark.parametrize(("exercise", "answer", "word"), rows(WRONG))
def test_a_wrong_answer_is_told_why(exercise, answer, word, capsys):
    assert re.search(word, told(exercise, answer))
    assert "well done" not in capsys.readouterr().out


@pytest.mark.parametrize(("exercise", "slip", "sentence"), rows(SLIPS))
def test_a_slip_that_is_known_gets_its_own_sentence(exercise, slip, sentence):
    assert told(exercise, slip).startswith(sentence + "\n")


@pytest.mark.parametrize(("exercise", "answer"), rows(RIGHT))
def test_a_right_answer_of_another_form_passes(exercise, answer, capsys):
    exercise(answer)
    assert capsys.readouterr().out.endswith(": well done\n")


@every
def test_a_check_knows_five_wrong_answers_by_name(exercise):
    assert len(exercise.exercise.slips) >= 5
    assert sum(row[0] is exercise for row in WRONG) >= 5


def wrapped(truth):
    """The same function as another object: of a piece, ours is known as ours."""
    return wraps(truth)(lambda *arguments: truth(*arguments))


@every
def test_the_truth_itself_passes(exercise, capsys):
    exercise(wrapped(exercise.exercise.truth))
    assert capsys.readouterr().out == f"{exercise.__name__}: well done\n"


# What is the solution, in code or as a formula: no message may hold it.
SOLUTIONS = {
    "full_parameters": ("m * n",),
    "lora_forward": ("x @ W0.T", "W0 x + s B A x", "x @ A.T"),
    "starting_weights": ("torch.zeros(m", "torch.randn(r"),
    "merged_weight": ("W0 + s * B @ A", "W0 + s B A"),
    "truncate": ("u[:, :r] * s[:r]",),
    "paired_interval": ("stats.t.ppf", "std(ddof=1)"),
    "verdict": ("mean - half > 0", "mean > half"),
    "decision": ("mean - half > 0", "mean - inner > -margin"),
    "rank_schedule": ("(last - first) * l", "l / (L - 1)"),
    "scalings": ("alpha / rank", "alpha / mean", "rank * mean"),
    "ranks_at_budget": ("Fraction(", "sorted("),
    "fold": ("beta * s + (1 - beta) * q", "squares / tokens"),
    "importance_scores": ("A.abs() * s.sqrt()",),
    "running_mean_square": ("x[mask]",),
    "keep_rows": ("argsort", "int(ratio"),
    "keep_in_matrix": ("argsort", "int(ratio"),
    "pruner_step": ("step_number % interval == 0", "masked_fill(~"),
    "churn": ("before & ~after",),
    "nonzero_share": ("(1 - ratio) * n + m",),
    "sparsify_for_good": ("weight.data[~alive] = 0",),
    "adapter_layers": ("isinstance",),
    "train_step": ("loss.backward()", "optimizer.step()"),
    "packed_bytes": ("4 * nonzero", "total / 8"),
    "number_of_prunes": ("rows / batch_size", "steps / interval"),
    "matthews": ("tp * tn - fp * fn",),
    "interaction": ("prilora - pruning", "ranks - lora"),
    "holm": ("m - i", "argsort"),
    "report_sentence": ("low > 0", "high < 0"),
}


@every
def test_no_message_holds_the_solution(exercise):
    known = [*exercise.exercise.slips, exercise.exercise.hint]
    for part in SOLUTIONS[exercise.__name__]:
        assert [message for message in known if part.replace(" ", "") in message.replace(" ", "")] == []


def stub(*arguments):
    raise NotImplementedError


@every
def test_a_stub_is_not_written_yet(exercise, capsys):
    exercise(stub)
    rest = ", so this page goes on with ours" if exercise in PIECES else ""
    assert capsys.readouterr().out == f"stub: not written yet{rest}\n"


def test_a_stub_of_another_page_that_is_called_is_named(capsys):
    def step(A, s, step_number, interval, ratio):
        return A * stub(A, ratio)

    check.pruner_step(step)
    said = "step: stub, which it calls, is not written yet, so this page goes on with ours\n"
    assert capsys.readouterr().out == said


def test_an_error_of_torchs_own_kind_is_not_taken_for_a_stub(capsys):
    def keep(scores, ratio):
        raise NotImplementedError("abs is not implemented for bool")

    assert "NotImplementedError: abs is not implemented for bool" in told(check.keep_in_matrix, keep)
    assert capsys.readouterr().out == ""


@every
def test_an_answer_that_raises_is_told_so_in_one_line(exercise):
    def answer(*arguments):
        raise ValueError("no such thing\nand a second line")

    line = told(exercise, answer).split("\n")[1]
    assert line.endswith(
        'stopped with ValueError: no such thing, in the line `raise ValueError("no such thing\\nand a second line")`.'
    )


@every
@pytest.mark.parametrize("value", [None, "text", math.nan], ids=str)
def test_what_is_no_answer_is_refused(exercise, value):
    assert told(exercise, lambda *arguments: value)


@pytest.mark.parametrize("value", [6, None, "full_parameters"])
def test_what_is_no_function_is_refused_with_the_way_to_call_the_check(value):
    assert f"not {value!r}: write exercises.full_parameters(full_parameters)." in told(check.full_parameters, value)


class Odd:
    """Raises whenever it is looked at."""

    def _raises(self, *arguments, **keywords):
        raise RuntimeError("odd")

    __repr__ = __array__ = __eq__ = __bool__ = __len__ = __iter__ = __float__ = __getitem__ = _raises
    __hash__ = None


plain = st.one_of(
    st.none(), st.booleans(), st.text(max_size=5), st.binary(max_size=3), st.complex_numbers(), st.just(math.nan),
    st.just(math.inf), st.just(10**400), st.integers(10**6), st.floats(1e6, 1e9),
)  # fmt: skip
shapes = st.lists(st.integers(0, 3), max_size=3)
arrays = st.one_of(
    shapes.map(lambda shape: torch.full(shape, math.nan)),
    shapes.map(lambda shape: torch.full(shape, 7.5, requires_grad=True)),
    shapes.map(lambda shape: torch.full(shape, 7, dtype=torch.bfloat16)),
    shapes.map(lambda shape: torch.ones(shape, dtype=torch.complex64)),
    shapes.map(lambda shape: torch.ones(shape, device="meta")),
    shapes.map(lambda shape: torch.eye(3).to_sparse()),
    shapes.map(lambda shape: np.full(shape, "7.5")),
    shapes.map(lambda shape: np.full(shape, None)),
    shapes.map(lambda shape: np.zeros(shape, dtype="datetime64[s]")),
)
objects = st.builds(Odd) | st.sampled_from(
    [object(), stub, torch.nn.ReLU(), torch.float32, iter(()), range(3), {1: 2}, {3}, {}, ...]
)
junk = st.recursive(
    st.one_of(plain, arrays, objects),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.tuples(inner, inner), st.dictionaries(st.text(), inner)),
    max_leaves=6,
)


@every
@settings(max_examples=20)
@given(values=st.lists(junk, min_size=1, max_size=3))
def test_junk_is_refused_in_words(exercise, values):
    calls = iter(range(10**6))
    assert told(exercise, lambda *arguments: values[next(calls) % len(values)])


def test_a_check_leaves_the_random_numbers_of_the_notebook_alone():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    for exercise in CHECKS:
        exercise(exercise.exercise.truth)
    assert torch.equal(torch.rand(1), expected)


def test_gradients_are_asked_for_even_where_the_notebook_has_switched_them_off(capsys):
    with torch.no_grad():
        check.lora_forward(wrapped(check.lora_forward.exercise.truth))
    assert capsys.readouterr().out == "lora_forward: well done\n"


@every
def test_two_answers_are_asked_the_same(exercise):
    asked = []

    def answer(*arguments):
        asked.append(repr(arguments))

    told(exercise, answer)
    told(exercise, answer)
    assert asked[: len(asked) // 2] == asked[len(asked) // 2 :]


def test_an_answer_that_writes_over_what_it_was_given_is_told_so():
    def churn(before, after):
        before.logical_not_()
        return ((~before & ~after).sum() / (~after).sum()).item()

    assert told(check.churn, churn).startswith("Your function changes before, which belongs to the caller.")


def test_a_function_without_a_name_and_a_fraction_pass(capsys):
    check.full_parameters(partial(operator.mul))
    check.full_parameters(lambda m, n: Fraction(m * n))
    assert capsys.readouterr().out == "your answer: well done\n<lambda>: well done\n"


def test_a_slip_that_fits_in_one_place_alone_is_not_accused():
    """The middle score of the first matrix happens to be its largest times the ratio."""
    message = told(check.keep_rows, lambda S, ratio: S > 2.0)
    assert "largest score" not in message


def test_a_slip_that_fits_in_most_places_alone_is_no_more_than_likely():
    """It is as if only the second could be better, but for one interval out of eleven."""

    def far_above(mean, half):
        return "first" if mean > 2.2 * half else "second" if mean < -half else "no difference shown"

    assert told(check.verdict, far_above).startswith("Perhaps this is why: You only ask whether the second is better")


def test_where_the_arguments_are_too_long_the_message_says_where_they_are():
    def first_step(steps, decay):
        return steps[0][0][0].mean(dim=(0, 1))

    *_, where = told(check.running_mean_square, first_step).split(" What was asked is ")
    assert where == "exercises.running_mean_square.exercise.cases[0]."
    assert "What was asked" not in told(check.full_parameters, lambda m, n: m + n)


CELL = """\
from prilora_lite import exercises

def merged_weight(W0, A, B, s):
    return W0 + s * A @ B

exercises.merged_weight(merged_weight)
"""
SENTENCE = "This order of A and B does not give an m x n matrix. Which of them stands next to x?"


def test_in_ipython_the_sentences_are_all_that_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell = InteractiveShell()
    shell.history_manager.enabled = False
    result = shell.run_cell(CELL)
    assert isinstance(result.error_in_exec, AssertionError)
    shown = capsys.readouterr().out.strip().split("\n")
    assert shown[0] == SENTENCE
    assert len(shown) == 2
    assert shown[1].startswith("merged_weight(W0 of shape (4, 3), A of shape (2, 3), B of shape (4, 2), s=3.0) stopped")
    assert shown[1].endswith(
        "stopped with RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x3 and 4x2), "
        "in the line `return W0 + s * A @ B`."
    )


def test_in_a_notebook_the_output_of_a_failing_check_has_the_sentences_and_no_frame(tmp_path):
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    with pytest.raises(CellExecutionError, match="does not give an m x n matrix"):
        NotebookClient(notebook, timeout=300).execute(cwd=str(tmp_path))
    (output,) = notebook.cells[0].outputs
    assert (output.output_type, output.ename) == ("error", "WrongAnswer")
    (text,) = output.traceback
    assert text.startswith(SENTENCE)
    assert "checking.py" not in text
    assert "Traceback" not in text


def test_tab_offers_the_checks_alone():
    assert dir(check) == check.__all__


def test_plain_python_raises_an_assertion_error():
    with pytest.raises(AssertionError, match="added the two sides"):
        check.full_parameters(lambda m, n: m + n)
