"""The house itself: imports run one way, what Colab ships is enough, and the pins fit the ranges."""

import ast
import json
import re
import shlex
import tomllib
from pathlib import Path

import pandas
import pytest
from packaging.requirements import Requirement

from prilora_lite import study
from prilora_lite.cli import _parser

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# Each room may import from those before it, none after.
ROOMS = (
    "errors", "ranks", "lora", "pruner", "config", "adapt", "checkpoint", "tasks", "encoders", "training", "study",
    "plots", "cli",
)  # fmt: skip


def test_every_room_is_listed():
    assert {path.stem for path in (ROOT / "prilora_lite").glob("*.py")} == {*ROOMS, "__init__"}


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room):
    tree = ast.parse((ROOT / "prilora_lite" / f"{room}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("prilora_lite"):
            parts = node.module.split(".")
            for name in parts[1:2] or [alias.name for alias in node.names]:
                assert ROOMS.index(name) < ROOMS.index(room), f"{room} imports {name}"


def test_what_colab_ships_is_enough():
    colab = {
        "torch": "2.11.0", "transformers": "5.15.0", "datasets": "4.0.0", "accelerate": "1.14.0", "peft": "0.20.0",
        "numpy": "2.1.3", "pandas": "2.2.3", "matplotlib": "3.10.0", "scikit-learn": "1.6.1", "scipy": "1.16.3",
        "ipywidgets": "7.7.1",
    }  # fmt: skip
    extras = PROJECT["optional-dependencies"]
    for text in [*PROJECT["dependencies"], *extras["lab"], *extras["peft"]]:
        requirement = Requirement(text)
        if requirement.name in colab:
            assert requirement.specifier.contains(colab[requirement.name]), text


def test_the_pins_lie_in_the_ranges_and_end_with_the_project():
    lines = [line for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    assert lines[-1] == "-e .[lab,test,peft]"
    pins = {r.name.lower().replace("_", "-"): r for r in map(Requirement, lines[:-1])}
    assert str(pins["torch"].specifier) == "==2.13.0"
    extras = PROJECT["optional-dependencies"]
    for text in [*PROJECT["dependencies"], *extras["lab"], *extras["test"], *extras["peft"]]:
        requirement = Requirement(text)
        (pin,) = pins[requirement.name].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), text


def commands(start):
    """The README's command lines that begin with a word, continuation lines joined, environment settings dropped."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)).replace("\\\n", " ")
    for line in re.split(r"\n|&&", blocks):
        words = [word for word in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", word)]
        if words[:1] == [start]:
            yield words


def test_the_readmes_commands_are_understood():
    found = list(commands("prilora-lite"))
    assert found
    for words in found:
        assert _parser().parse_args(words[1:]).run


def test_the_check_of_a_clean_clone_runs_the_readmes_test_command():
    command = "pip install -r requirements.txt && pytest"
    assert command in README
    assert command.replace("install", "install --quiet") in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_readmes_results_are_those_of_the_raw_runs():
    summary = study.summarize(study.to_dataframe(study.read_records(ROOT / "results" / "minilm_glue.jsonl")))
    summary = summary.set_index(["method", "task"])
    for method in ("head", "lora", "prilora", "full"):
        (line,) = [line for line in README.splitlines() if line.startswith(f"| {study.METHODS[method].label} |")]
        shown = [cell.strip() for cell in line.strip("|").split("|")][1:3]
        rows = [summary.loc[(method, task)] for task in ("cola", "mrpc")]
        assert shown == [f"{100 * row['mean']:.1f} ({100 * row['sd']:.1f})" for row in rows]
        assert min(row["seeds"] for row in rows) >= 2


def test_the_results_table_and_raw_runs_agree():
    frame = study.to_dataframe(study.read_records(ROOT / "results" / "minilm_glue.jsonl"))
    table = pandas.read_csv(ROOT / "results" / "minilm_glue.csv", comment="#")
    pandas.testing.assert_frame_equal(table, frame, check_dtype=False)


def test_the_readmes_speed_is_that_of_the_benchmarks_file():
    ratios = json.loads((ROOT / "results" / "step_time.json").read_text(encoding="utf-8"))["ratios"]
    for label, (ratio, low, high) in ratios.items():
        assert f"| {label} | {ratio:.2f} | {low:.2f} to {high:.2f} |" in README
