"""The command line as a whole; what a command does is tested where that is made."""

import sys
from pathlib import Path

import pytest

from prilora_lite.cli import _parser, main
from prilora_lite.config import SCALINGS
from prilora_lite.experiments import commands, study_options
from prilora_lite.experiments.methods import METHODS
from prilora_lite.experiments.presets import PRESETS
from prilora_lite.experiments.tasks import TASKS
from prilora_lite.importance import IMPORTANCE_RULES
from prilora_lite.ranks import SCHEDULES
from prilora_lite.teaching import recordings
from tests.environments import call

ROOT = Path(__file__).parent.parent
TABLES = {
    "ablate": (METHODS, TASKS, PRESETS, IMPORTANCE_RULES, SCHEDULES, SCALINGS),
    "record": (recordings.RECORDINGS,),
}

HELP = """
import sys
from prilora_lite.cli import main
try:
    main(["--help"])
finally:
    tops = {name.split(".")[0] for name in sys.modules}
    print("slow:", *tops & {"torch", "numpy", "pandas", "matplotlib", "transformers", "datasets"})
"""


def help_of(capsys, *command):
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    return capsys.readouterr().out


def test_the_help_waits_for_nothing_that_is_slow_to_load(tmp_path):
    said = call(sys.executable, "-c", HELP, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert "compare methods on tasks over seeds" in said
    assert said.splitlines()[-1] == "slow:"


COMMANDS = ["ablate", "report", "ask", "record", "notebooks", "handout", "assignments", "grade"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_help_names_what_its_tables_hold(command, capsys):
    said = help_of(capsys, command)
    words = set(said.replace(",", " ").replace(";", " ").split())
    assert {name for table in TABLES.get(command, ()) for name in table} <= words
    assert "{" not in said.replace("{auto,fp32,bf16}", "").replace("{cuda,mps,cpu}", "")


def test_a_warning_is_told_once_and_without_the_line_of_code_that_it_came_from(tmp_path):
    code = """
import warnings
from prilora_lite.cli import main
from prilora_lite.experiments import commands
commands._migrate = lambda options: [warnings.warn("rows twice", stacklevel=level) for level in (1, 2)] and 0
main(["migrate", "runs.jsonl"])
"""
    said = call(sys.executable, "-c", code, cwd=tmp_path, check=False)
    assert [line for line in said.splitlines() if "rows" in line] == ["warning: rows twice"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["ask", "nope.toml"], "nope.toml does not exist; questions are described in a file that ends in .toml"),
        (["ask", "."], ". is a folder; questions are described in a file that ends in .toml"),
        (["ablate", "nope.toml"], "nope.toml does not exist; a study is described in a file that ends in .toml"),
        (["ablate", "."], ". is a folder; a study is described in a file that ends in .toml"),
        (["report", "nope.jsonl"], "there is no file nope.jsonl; prilora-lite ablate writes one"),
    ],
)
def test_a_file_that_is_not_there_or_a_folder_is_told_in_words(line, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(line) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"prilora-lite: {said}"


def test_the_systems_own_message_begins_with_the_file(monkeypatch, capsys):
    def fail(options):
        Path("no", "such", "file").read_text(encoding="utf-8")

    monkeypatch.setattr(commands, "_report", fail)
    assert main(["report", "some.file"]) == 2
    assert (
        capsys.readouterr().err.splitlines()[-1]
        == f"prilora-lite: {Path('no', 'such', 'file')}: No such file or directory"
    )


@pytest.mark.parametrize(("command", "goes_on"), [("ask", True), ("report", False)])
def test_a_command_that_is_stopped_says_whether_it_goes_on_from_there(command, goes_on, monkeypatch, capsys):
    def stop(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, f"_{command}", stop)
    assert main([command, "some.file"]) == 130
    assert ("started again, it goes on from here" in capsys.readouterr().err) == goes_on


@pytest.mark.parametrize(
    "line",
    [
        ["ablate", "~/study.toml", "--output=~/runs.jsonl", "--encoder=~/encoder"],
        ["report", "~/runs.jsonl", "--output=~/made"],
        ["ask", "~/asked.toml"],
        ["migrate", "~/runs.jsonl", "~/others.jsonl"],
        ["record", "--folder=~/made"],
        ["notebooks", "~/01.ipynb"],
        ["handout", "--output=~/made", "--course=~/course"],
        ["assignments", "--release=~/made", "--course=~/course"],
        ["grade", "a1_lora_layer", "--course=~/course"],
    ],
    ids=lambda line: line[0],
)
def test_a_path_at_home_is_found_where_the_shell_left_its_sign(line, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    said = str(vars(_parser().parse_args(line)))
    assert "~" not in said
    assert said.count(str(tmp_path)) == sum("~" in word for word in line)


@pytest.mark.parametrize("line", [["FILE", "--jobs", "2"], ["--jobs", "2", "FILE"]])
def test_the_command_line_goes_before_a_studys_file(line, tmp_path):
    file = tmp_path / "study.toml"
    file.write_text("jobs = 3\nseeds = [5]\n[set]\nepochs = 1\n", encoding="utf-8")
    options = _parser().parse_args(["ablate", *(str(file) if word == "FILE" else word for word in line)])
    assert study_options.told(options) == {"jobs": 2, "seeds": [5], "set": ["epochs=1"]}


def test_settings_on_the_command_line_come_after_those_of_a_studys_file(tmp_path):
    file = tmp_path / "study.toml"
    file.write_text("[set]\nepochs = 1\nwarmup = 2\n", encoding="utf-8")
    options = _parser().parse_args(["ablate", str(file), "--set", "epochs=3"])
    assert study_options.read_settings(study_options.told(options)["set"]) == {"epochs": 3, "warmup": 2}
