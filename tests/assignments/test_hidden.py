"""Hidden tests are fair and hard to move: by learners' own names, by stand-ins, by forged runs."""

import ast
import builtins
import json
import re
import symtable

import pytest

from prilora_lite.experiments import study
from tests.assignments import submissions
from tests.assignments.submissions import ASSIGNMENTS, named, notebook, points, solutions, text
from tests.assignments.test_answers import ACCURACY, made

A2, A4 = "a2_rank_schedule", "a4_ablation_report"
TESTS = [(assignment, name) for assignment in ASSIGNMENTS for name in points(assignment)]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own_without_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "_make", made(ACCURACY))
    monkeypatch.setattr(study, "_check_encoders", lambda *_: None)


def hidden(assignment, name):
    return re.search(r"### BEGIN HIDDEN TESTS\n(.*?)### END", text(named(notebook(assignment))[name]), re.S)[1]


def _globals(table):
    """Names that functions take from the notebook."""
    for inner in table.get_children():
        yield from (symbol.get_name() for symbol in inner.get_symbols() if symbol.is_global())
        yield from _globals(inner)


@pytest.mark.parametrize(("assignment", "name"), TESTS)
def test_a_test_sets_no_name_but_of_its_assignments_prefix(assignment, name):
    table = symtable.symtable(text(named(notebook(assignment))[name]), name, "exec")
    set_here = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    assert all(found.startswith(f"{assignment[:2]}_") for found in set_here), set_here


@pytest.mark.parametrize(("assignment", "name"), TESTS)
def test_a_hidden_test_takes_from_the_notebook_only_answers_and_this_years_rule(assignment, name):
    answers = {
        found
        for code in solutions(assignment).values()
        for node in ast.parse(code).body
        for found in ([node.name] if hasattr(node, "name") else [t.id for t in getattr(node, "targets", [])])
    }
    rules = {"SCALING", "ROUNDING", "SCOPE", "TASK", "SEEDS", "RUNS"}
    taken = set(_globals(symtable.symtable(hidden(assignment, name), name, "exec")))
    # An error's name in `raise` and `except` could be taken by a learner as well, who would see it in the visible test
    assert taken <= answers | rules | {"ValueError"}, taken - answers - rules


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_a_learners_helpers_may_have_any_name_that_the_tests_use_inside(assignment):
    """Each answer rests on a helper of that name; without the hidden tests, all would be well."""
    used = set()
    for name in points(assignment):
        table = symtable.symtable(text(named(notebook(assignment))[name]), name, "exec")
        used |= {
            symbol.get_name() for inner in table.get_children() for symbol in inner.get_symbols() if symbol.is_local()
        }
    visible = set(re.findall(r"\w+", " ".join(map(text, named(notebook(assignment, "release")).values()))))
    answers = dict(solutions(assignment))
    first = next(iter(answers))
    helpers = sorted(name for name in used - visible - set(dir(builtins)) if name.isidentifier())
    assert helpers
    answers[first] = "".join(f"def {name}():\n    return {name!r}\n\n\n" for name in helpers) + answers[first]
    for name, code in answers.items():  # whatever the answer, its helpers must be what they were
        body = "".join(f"assert {helper}() == {helper!r}\n" for helper in helpers)
        answers[name] = f"{code}\n{body}"
    assert submissions.failed(assignment, submissions.answered(assignment, answers)) == set()


SHADOWED = ("all", "sum", "list", "range", "len", "int", "float", "round", "zip", "sorted", "max", "enumerate", "tuple")


@pytest.mark.parametrize("assignment", ASSIGNMENTS[:3])
def test_builtins_of_a_learners_own_move_no_hidden_test(assignment, capsys):
    """Stubs that say what the visible tests ask for, and builtins that say yes to everything."""
    copied = notebook(assignment, "release")
    first = named(copied)[next(iter(solutions(assignment)))]
    first["source"] = "def yes(*a, **k):\n    return True\n\n\n" + "".join(f"{name} = yes\n" for name in SHADOWED)
    assert submissions.failed(assignment, copied) == set(points(assignment))


def a2(**answers):
    return submissions.failed(A2, submissions.answered(A2, solutions(A2) | answers))


@pytest.mark.parametrize(
    "kind", ["float", "__import__('fractions').Fraction", "__import__('numpy').int32", "__import__('numpy').float64"]
)
def test_whole_numbers_of_any_type_are_whole_numbers(kind):
    answers = {
        "a2_line": solutions(A2)["a2_line"].replace("[round(", f"[({kind})(round(").replace("- 1)) for", "- 1))) for"),
        "a2_cost": solutions(A2)["a2_cost"].replace("return ", f"return ({kind})(") + ")",
        "a2_budget": solutions(A2)["a2_budget"].replace("return last", f"return ({kind})(last)"),
        "a2_names": solutions(A2)["a2_names"].replace("return ranks", f"return ({kind})(ranks") + ")",
    }
    assert a2(**answers) == set()


@pytest.mark.parametrize("kind", ["str", "lambda x: x + 0.25", "lambda x: None", "lambda x: float('nan')", "complex"])
def test_what_is_no_whole_number_is_none(kind):
    line = solutions(A2)["a2_line"].replace("[round(", f"[({kind})(round(").replace("- 1)) for", "- 1))) for")
    assert a2(a2_line=line) == {"a2_line_test"}


def test_an_object_that_equals_everything_passes_no_hidden_test():
    yes = "class Yes(int):\n    def __eq__(self, other):\n        return True\n\n    __hash__ = None\n\n\n"
    stubs = {
        "a2_line": yes + "def schedule(n, first, last):\n    return [Yes(1)] * n",
        "a2_cost": yes + "def cost(*a):\n    return Yes(1)",
        "a2_names": yes + "def rank_of(name, ranks):\n    return Yes(1)",
    }
    assert a2(**stubs) == {"a2_line_test", "a2_cost_test", "a2_names_test"}


FORGED = {
    "better values": lambda record: record["metrics"].update(accuracy=record["metrics"]["accuracy"] + 0.2)
    if record["name"] == "mine" else None,
    "one value": lambda record: record["metrics"].update(accuracy=0.95)
    if (record["name"], record["seed"]) == ("mine", 1) else None,
    "worse LoRA": lambda record: record["metrics"].update(accuracy=0.5) if record["name"] == "lora" else None,
    "another seed's": lambda record: record.update(seed=0),
    "another task's": lambda record: record.update(task="pocket-cola"),
    "other settings": lambda record: record.update(settings={"epochs": 3}),
    "settings of the key": lambda record: record["key"][4].update(learning_rate=0.1),
    "another method": lambda record: record["method"].update(ratio=0.5) if record["name"] == "mine" else None,
    "another encoder": lambda record: record["key"].__setitem__(7, "0" * 16),  # by its weights, whatever its name
    "other rows": lambda record: record["key"].__setitem__(6, "0" * 16),
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGED)
def test_a_forged_run_costs_the_points_of_the_runs(forgery, tmp_path):
    """The learner runs, changes the file, and hands both in; what the table shows is what the file says."""
    forge = (
        "import json\nlines = [json.loads(line) for line in RUNS.read_text().splitlines()]\n"
        "for record in lines:\n    FORGE(record)\n"
        "RUNS.write_text(''.join(json.dumps(record) + '\\n' for record in lines))\n"
        "records = lines\n"
    )
    builtins.FORGE = FORGED[forgery]
    try:
        answers = solutions(A4) | {"a4_table": forge + solutions(A4)["a4_table"] + "\n\nruns = tidy(lines)"}
        assert "a4_runs_test" in submissions.failed(A4, submissions.answered(A4, answers))
    finally:
        del builtins.FORGE


def test_a_run_from_another_processor_keeps_its_points(monkeypatch):
    """A few points more or less: sums are taken in another order there."""
    answers = solutions(A4) | {
        "a4_table": "import json\nlines = [json.loads(line) for line in RUNS.read_text().splitlines()]\n"
        "for record in lines:\n    record['metrics']['accuracy'] += 0.03\n"
        "RUNS.write_text(''.join(json.dumps(record) + '\\n' for record in lines))\nrecords = lines\n"
        + solutions(A4)["a4_table"]
    }
    assert submissions.failed(A4, submissions.answered(A4, answers)) == set()


def test_runs_are_json_lines_that_a_study_reads(tmp_path):
    submissions.failed(A4, submissions.perfect(A4))
    lines = (tmp_path / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    assert len([json.loads(line) for line in lines]) == 6
