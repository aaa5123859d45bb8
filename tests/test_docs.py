"""The page of public names, and every example in a docstring, run."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

import prilora_lite
from tests.test_house import MODULES

PAGE = (Path(__file__).parent.parent / "docs" / "api.md").read_text(encoding="utf-8")


def test_the_page_has_every_public_name_once_with_an_example_that_uses_it():
    sections = re.split(r"^### `(\w+)`$", PAGE, flags=re.MULTILINE)[1:]
    names, texts = sections[::2], sections[1::2]
    assert sorted(names) == sorted(prilora_lite.__all__)
    for name, text in zip(names, texts, strict=True):
        (example, *_) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
        assert f">>> from prilora_lite import {name}\n" in example


def test_the_pages_examples_print_what_they_say():
    pytest.importorskip("peft")
    examples = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))
    test = doctest.DocTestParser().get_doctest(examples, {}, "api.md", "docs/api.md", 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    said = []
    runner.run(test, out=said.append)
    assert runner.tries > 60
    assert not runner.failures, "".join(said)


WITH_EXAMPLES = [name for name, path in MODULES.items() if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_in_docstrings_print_what_they_say(name):
    if ".integrations." in name:
        pytest.importorskip("peft")
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed
