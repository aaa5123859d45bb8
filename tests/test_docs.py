"""What the pages of docs/ say of the code is so: their examples run, and so does every example in a docstring."""

import doctest
import importlib
import inspect
import re

import pytest

import prilora_lite
from prilora_lite.importance import IMPORTANCE_RULES
from prilora_lite.ranks import SCHEDULES
from tests.small_models import batch, build
from tests.test_house import MAY_IMPORT, MODULES, PACKAGE, lines_of_code

DOCS = PACKAGE.parent / "docs"
PAGE = (DOCS / "api.md").read_text(encoding="utf-8")
ARCHITECTURE = (DOCS / "architecture.md").read_text(encoding="utf-8")


def test_the_page_has_every_public_name_once_with_an_example_that_uses_it():
    sections = re.split(r"^### `(\w+)`$", PAGE, flags=re.MULTILINE)[1:]
    names, texts = sections[::2], sections[1::2]
    assert sorted(names) == sorted(prilora_lite.__all__)
    for name, text in zip(names, texts, strict=True):
        (example, *_) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
        assert f">>> from prilora_lite import {name}\n" in example


@pytest.mark.parametrize(("page", "least"), [("api.md", 60), ("scripts.md", 11), ("peft.md", 6)])
def test_a_pages_examples_print_what_they_say(page, least, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    monkeypatch.setitem(IMPORTANCE_RULES, "weight_times_gradient", None)  # a page enters it: it goes when the test ends
    examples = "\n".join(
        re.findall(r"```python\n(>>> .*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    )
    given = {"model": build("bert"), "fresh": build("bert"), "batch": batch(), "folder": tmp_path / "adapter"}
    test = doctest.DocTestParser().get_doctest(examples, given, page, f"docs/{page}", 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    said = []
    runner.run(test, out=said.append)
    assert runner.tries > least
    assert not runner.failures, "".join(said)


WITH_EXAMPLES = [name for name, path in MODULES.items() if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_in_docstrings_print_what_they_say(name):
    if ".integrations." in name:
        pytest.importorskip("peft")
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed


def test_the_way_through_names_its_files_with_their_lines_and_where_to_start():
    way = re.findall(r"^\| \d \| \[`(\w+)\.py`\]\(\S+\) \| (\d+) \| (.+?) \|", ARCHITECTURE, flags=re.MULTILINE)
    texts = {name: (PACKAGE / f"{name}.py").read_text(encoding="utf-8") for name, _, _ in way}
    said = {name: int(count) for name, count, _ in way}
    lines = {name: len(text.splitlines()) for name, text in texts.items()}
    assert said == pytest.approx(lines, rel=0.25)  # one rule or schedule more is not another way
    assert sum(said.values()) == pytest.approx(sum(lines.values()), rel=0.1)
    (code,) = re.findall(
        rf"{len(said)} files, {sum(said.values()):,} lines, of which some (\d+) are code", ARCHITECTURE
    )
    assert int(code) == pytest.approx(sum(len(lines_of_code(f"prilora_lite.{name}")) for name in said), rel=0.1)
    for name, _, starts in way:
        for start in re.findall(r"`(\w+)`", starts):
            assert re.search(rf"(def|class) {start}\b", texts[name]), f"{start} is not in {name}.py"


def test_the_way_through_is_short():
    way = re.findall(r"^\| \d \| \[`(\w+\.py)`\]", ARCHITECTURE, flags=re.MULTILINE)
    assert 5 < len(way) <= 8
    lines = sum(len((PACKAGE / name).read_text(encoding="utf-8").splitlines()) for name in way)
    for entry in (*IMPORTANCE_RULES.values(), *SCHEDULES.values()):  # a new one is no reason to shorten the others
        lines -= len(inspect.getsourcelines(entry)[0]) + 2
    assert lines <= 1200, f"{lines} lines are no longer one sitting: shorten {', '.join(way)}, or move something out"
    assert len(list(PACKAGE.glob("*.py"))) <= 13


def test_the_page_on_architecture_names_files_that_exist():
    named = set(re.findall(r"[\w/]+\.py\b", ARCHITECTURE))
    assert len(named) > 20
    for name in named:
        assert any((folder / name.removeprefix("/")).is_file() for folder in (PACKAGE, PACKAGE.parent)), name


def test_the_page_on_architecture_says_what_each_folder_may_import():
    names = {folder: f"`{folder}/`" if folder else "the method" for folder in MAY_IMPORT}
    for folder, others in MAY_IMPORT.items():
        said = ", ".join(names[other] for other in others) or "nothing"
        assert f"| {names[folder]} | {said} |" in ARCHITECTURE, folder
