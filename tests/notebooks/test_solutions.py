"""Every exercise: its stub is told "not written yet", its folded solution passes, in the stub's place."""

import re

import pytest

from tests.notebooks.test_form import PATHS, cells


def exercises():
    """(name of the exercise, source of stub, check and solution) of all notebooks."""
    found = []
    for path in PATHS:
        every = cells(path)
        for place, cell in enumerate(every):
            if "exercise" in cell.metadata.get("tags", []):
                check, solution = every[place + 1 : place + 3]
                assert "check" in check.metadata["tags"], cell.source
                assert "solution" in solution.metadata["tags"], cell.source
                found.append(pytest.param(cell.source, check.source, solution.source, id=path.stem[:2] + name_of(cell)))
    return found


def name_of(cell):
    return re.search(r"def (\w+)\(", cell.source).group(1)


EXERCISES = exercises()


def run(*sources):
    names = {"__name__": "__main__"}
    for source in sources:
        exec(compile(source, "<cell>", "exec"), names)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_has_exercises_with_difficulty_minutes_and_hints(path):
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    count = len(cells(path, tag="exercise"))
    assert 1 <= count - len(cells(path, tag="piece")) <= 3
    for pattern in (r"\*Difficulty \d of 3, priority \d of 3, \d+ minutes?\.\*", r"<summary>Solution</summary>"):
        assert len(re.findall(pattern, text)) == count
    assert len(re.findall(r"<summary>Hint", text)) >= count


@pytest.mark.parametrize(("stub", "check", "solution"), EXERCISES)
def test_an_untouched_stub_is_not_written_yet(stub, check, solution, capsys):
    import_of_checks = "from prilora_lite import exercises"
    run(import_of_checks, stub, check)
    assert capsys.readouterr().out.endswith(
        (": not written yet\n", ": not written yet, so this page goes on with ours\n")
    )


@pytest.mark.parametrize(("stub", "check", "solution"), EXERCISES)
def test_the_solution_passes_in_the_place_of_its_stub(stub, check, solution, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", solution, flags=re.S)
    assert re.search(r"def .*\n", stub).group() == re.search(r"def .*\n", code).group()  # the same name and arguments
    run("from prilora_lite import exercises", code, check)
    assert capsys.readouterr().out.endswith(": well done\n")
