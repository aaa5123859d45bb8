"""What the repository promises: what Colab ships is enough, the pins fit the ranges, the README says what is so."""

import ast
import json
import re
import shlex
import tomllib
from importlib.metadata import distributions, requires
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from benchmarks import environments, kit, learning_rates, show
from benchmarks.environments import COLAB
from prilora_lite.cli import _parser
from prilora_lite.experiments import reporting
from prilora_lite.experiments.comparison import compare, decide, paired_differences, paired_interval
from prilora_lite.shared.records import read_records
from prilora_lite.teaching import recordings
from tests import architectures
from tests.test_house import MODULES, lines_of_code, tree_of

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")

HUB_CALLS = ("from_pretrained", "snapshot_download", "hf_hub_download", "load_dataset")


def test_whatever_asks_the_hub_names_a_revision():
    asked = 0
    for name in MODULES:
        for node in ast.walk(tree_of(name)):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in HUB_CALLS:
                assert "revision" in {keyword.arg for keyword in node.keywords}, f"{name}, line {node.lineno}"
                asked += 1
    assert asked


def test_what_colab_ships_is_enough():
    extras = PROJECT["optional-dependencies"]
    for text in [*PROJECT["dependencies"], *extras["lab"], *extras["peft"]]:
        requirement = Requirement(text)
        if requirement.name in COLAB:
            assert requirement.specifier.contains(COLAB[requirement.name]), text


TRIED = json.loads((ROOT / "results" / "environments.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", TRIED)
def test_a_set_of_versions_was_tried_as_it_now_is_and_worked(name):
    """After a change of pyproject.toml's bounds or of Colab's set: python -m benchmarks.environments."""
    entry, pins = TRIED[name], environments.SETS[name.split()[0]]()
    assert entry["passed"]
    assert set(entry["steps"]) == set(environments.STEPS)
    installed = {package: Version(version).public for package, version in entry["versions"].items()}
    for package, version in installed.items():
        if package in pins:
            assert Version(version) == Version(pins[package]), package
    for requirement in environments.requirements("peft"):
        assert requirement.specifier.contains(installed[requirement.name]), requirement


def test_every_set_was_tried_and_every_python_that_is_named():
    assert {name.split()[0] for name in TRIED} == set(environments.SETS)
    named = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if line.startswith("Programming Language")}
    assert named == {name.rpartition(" ")[2] for name in TRIED}


def test_a_step_that_fails_ends_the_trial_and_is_kept():
    done = []

    class Broken:
        versions = staticmethod(lambda: {"python": "3.11.7"})
        build = staticmethod(lambda: done.append("build"))
        install = staticmethod(lambda: done.append("install"))

        def imports(self):
            raise AssertionError("ImportError")

    entry = environments.check(Broken())
    assert done == ["build", "install"]
    assert entry["steps"] == {"build": "ok", "install": "ok", "imports": "failed"}
    assert not entry["passed"]
    assert "| oldest | 3.11.7 | - |" in environments.table({"oldest on Python 3.11": entry})


def test_the_table_of_environments_is_that_of_the_file():
    assert environments.table(TRIED) in (ROOT / "results" / "README.md").read_text(encoding="utf-8")


def test_the_pins_lie_in_the_ranges_and_end_with_the_project():
    lines = [line for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    assert lines[-1] == "-e .[lab,test,peft,classroom,docs]"  # Ray is tested on Linux: it is pinned above for it alone
    pins = {r.name.lower().replace("_", "-"): r for r in map(Requirement, lines[:-1])}
    assert str(pins["torch"].specifier) == "==2.13.0"
    extras = PROJECT["optional-dependencies"]
    for text in [
        *PROJECT["dependencies"],
        *extras["lab"],
        *extras["test"],
        *extras["peft"],
        *extras["classroom"],
        *extras["docs"],
        *extras["ray"],
        *extras["paper"],
    ]:
        requirement = Requirement(text)
        (pin,) = pins[requirement.name].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), text


def test_the_table_of_architectures_is_that_of_their_tests():
    assert architectures.table() in (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


STUDIES = ("pocket", "minilm_glue", "pocket_grid", "pocket_grid_one_s")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "results" / "README.md"]


def commands(start):
    """The pages' command lines that begin with a word, continuation lines joined, environment settings dropped."""
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", pages, flags=re.DOTALL)).replace("\\\n", " ")
    for line in re.split(r"\n|&&", blocks):
        words = [word for word in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", word)]
        if words[:1] == [start]:
            yield words


def test_the_pages_commands_are_understood():
    found = list(commands("prilora-lite"))
    assert found
    for words in found:
        assert _parser().parse_args(words[1:]).run


@pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.name if page.parent == ROOT else f"{page.parent.name}/{page.name}"
)
def test_a_pages_links_lead_somewhere(page):
    """To a file of the repository, and to a heading there where one is named."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?:", target):
            continue
        name, _, heading = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        if heading:
            lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
            slugs = [re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in lines]
            assert heading in slugs, target


def test_what_a_pinned_package_needs_is_pinned_too():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(Requirement(line).name) for line in lines if "==" in line}
    for name in sorted(pinned & {canonicalize_name(each.name) for each in distributions()}):
        for needed in map(Requirement, requires(name) or []):
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonicalize_name(needed.name) in pinned, f"{name} needs {needed}"


def test_the_readme_is_short_enough_to_be_read():
    assert len(README.splitlines()) <= 150


def test_the_check_of_a_clean_clone_runs_the_readmes_test_command():
    assert "pip install -r requirements.txt && pytest" in README
    check = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    install = "pip install --quiet -r requirements.txt"
    assert f"{{ uv {install} || {install}; }}\nwait && pytest\n" in check  # the wait: for Chromium


def test_the_readme_says_how_long_the_notebooks_take():
    heads = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    reading = [int(re.search(r"Reading time (\d+) minutes", head).group(1)) for head in heads]
    assert f"A page takes {min(reading)} to {max(reading)} minutes to read" in " ".join(README.split())
    (stated,) = re.findall(r"to\s+read\s+and\s+at\s+most\s+(\d+)\s+s\s+on", README)
    assert max(int(re.search(r"runs in (\d+) s", head).group(1)) for head in heads) <= int(stated)


def test_the_readme_says_how_long_the_method_is():
    ((files, lines),) = re.findall(
        r"compare it with the library:(.*?) together have some (\d+) lines of code", README, re.S
    )
    names = re.findall(r"\(prilora_lite/(\w+)\.py\)", files)
    assert len(names) == 4
    assert int(lines) == pytest.approx(sum(len(lines_of_code(f"prilora_lite.{name}")) for name in names), rel=0.05)


def test_the_benchmark_of_the_first_command_runs_the_readmes():
    assert f"\n{' '.join(kit.FIRST_COMMAND)}\n```" in README


DIFFERENCE = r"([+-]?\d+\.\d)(?: points?(?: [^.()]*)?)? \((-?\d+\.\d) to (-?\d+\.\d)\)"


def test_the_readmes_answers_are_those_of_the_questions_and_of_minilm():
    answers = pd.read_csv(ROOT / "results" / "questions.csv")
    found = {
        tuple(f"{value:.1f}" for value in (row.difference, row.low, row.high))
        for row in answers.itertuples()
        if np.isfinite(row.difference)
    }
    minilm = reporting.groups(read_records(ROOT / "results" / "minilm_glue.jsonl"))["minilm"]
    for row in compare(minilm, "prilora", "lora").itertuples():
        found.add(tuple(f"{100 * value:.1f}" for value in (row.mean, row.low, row.high)))
    text = " ".join(README.split("## Does it work?")[1].split("\n## ")[0].split())
    said = re.findall(DIFFERENCE, text)
    assert len(said) == len(re.findall(r"\d to -?\d+\.\d\)", text))  # every interval has its difference
    for mean, low, high in said:
        assert (mean.lstrip("+"), low, high) in found, (mean, low, high)


def test_the_readme_says_what_the_recorded_prunes_remove():
    first, *later = recordings.load_trace(0.5, 20)["mass"].values()
    assert f"takes some {first:.0%} of it".replace("%", " %") in " ".join(README.split())
    assert max(later) < 0.02  # almost nothing


def test_the_page_on_pocket_says_what_the_raw_runs_say():
    parts = reporting.groups(read_records(ROOT / "results" / "pocket.jsonl"))
    text = " ".join((ROOT / "docs" / "pocket.md").read_text(encoding="utf-8").split())
    for part, method, task in (
        ("pocket", "full", "pocket-mrpc"),
        ("pocket", "full", "pocket-rte"),
        ("pocket, epochs=0.5", "random_75", "pocket-cola"),
    ):
        table = compare(parts[part], method, "lora").set_index("task")
        mean, low, high = (f"{100 * table.loc[task, name]:.1f}" for name in ("mean", "low", "high"))
        assert f"{mean} ({low} to {high})" in text, (method, task)


def test_the_results_page_says_what_the_runs_of_minilm_say():
    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    minilm = reporting.groups(read_records(ROOT / "results" / "minilm_glue.jsonl"))["minilm"]
    table = compare(minilm, "prilora", "lora").set_index("task")
    for task, name in (("cola", "CoLA"), ("mrpc", "MRPC"), ("stsb", "STS-B"), ("all", "all three")):
        mean, low, high = (100 * table.loc[task, column] for column in ("mean", "low", "high"))
        word = decide(100 * paired_differences(minilm, "prilora", "lora")[task], 1).word
        assert f"| {name} | {mean:+.1f} | {low:.1f} to {high:.1f} | {word} |" in page


def scores(name, task, method):
    """Seed -> the main metric of a method's runs with MiniLM, in percent."""
    runs = [r for r in read_records(ROOT / "results" / f"{name}.jsonl") if r["encoder"] == "minilm"]
    return {
        r["seed"]: 100 * next(iter(r["metrics"].values()))
        for r in runs
        if (r["task"], r["name"]) == (task, method) and r["seed"] < 110
    }


def test_the_pages_say_how_both_do_on_cola_at_the_rates_tried():
    """LoRA at 0.0005 in the study, all else at 0.001; ten seeds each. Later seeds have no answer yet."""
    rates = {
        (r["name"], r["settings"]["learning_rate"])
        for name in ("questions", "minilm_glue")
        for r in read_records(ROOT / "results" / f"{name}.jsonl")
        if r["encoder"] == "minilm" and r["task"] == "cola" and r["name"] in ("lora", "prilora") and r["seed"] < 110
    }
    assert rates == {("lora", 0.0005), ("lora", 0.001), ("prilora", 0.001)}
    found = [scores(name, "cola", m) for m in ("lora", "prilora") for name in ("minilm_glue", "questions")]
    assert all(len(runs) == 10 for runs in found)
    lora, slower_lora, prilora, again = (f"{np.mean(list(runs.values())):.1f}" for runs in found)
    text = " ".join((ROOT / "results" / "README.md").read_text(encoding="utf-8").split())
    assert f"{slower_lora} over ten seeds at 0.0005, {lora} over ten other seeds at 0.001" in text
    (page,) = (ROOT / "notebooks").glob("07_*.ipynb")
    for row in (
        f"| LoRA | **{slower_lora}** (new seeds) | {lora} (first seeds) |",
        f"| PRILoRA | not finished | {prilora} (first seeds), **{again}** (new seeds) |",
        f"its score rose by {float(slower_lora) - float(lora):.1f}.",
    ):
        assert row in page.read_text(encoding="utf-8")


def test_notebook_03_has_the_means_of_the_four_kinds_of_runs_that_it_compares():
    arms = (("lora", "flat_tilted_s"), ("rising", "rising_one_s"))
    runs = [r for r in read_records(ROOT / "results" / "questions.jsonl") if r["task"] == "pocket-rte"]
    runs = [r for r in runs if r["settings"]["epochs"] == 0.5 and r["settings"]["learning_rate"] == 0.004]
    (page,) = (ROOT / "notebooks").glob("03_*.ipynb")
    for label, names in zip(("rank 8 everywhere", "ranks 4 to 12"), arms, strict=True):
        found = [
            [r["metrics"]["accuracy"] for r in runs if r["name"] == n and r["seed"] in range(100, 160)] for n in names
        ]
        assert [len(values) for values in found] == [60, 60]
        row = " | ".join(f"{100 * np.mean(values):.1f}" for values in found)
        assert f"| {label} | {row} |" in page.read_text(encoding="utf-8")


def test_notebook_02_has_the_trial_scores_of_its_example_of_a_cautious_rate():
    rates = learning_rates_of("both ends or the top", "one_everywhere")
    (page,) = (ROOT / "notebooks").glob("02_*.ipynb")
    drawn = ", ".join(f"{rate}: {score}" for rate, score in rates)
    assert f"trials = {{{drawn}}}" in page.read_text(encoding="utf-8")


def learning_rates_of(question, arm):
    """The rates that were tried for an arm of a question, and their scores, from the page of all answers."""
    text = (ROOT / "results" / "questions.md").read_text(encoding="utf-8")
    (tried,) = re.findall(rf"^\| {question} \| {arm} \| [\d.]+ \| (.*) \|$", text, flags=re.M)
    return [tuple(pair.split(": ")) for pair in tried.split(", ")]


def test_the_results_page_says_what_changes_with_the_machine():
    text = " ".join((ROOT / "results" / "README.md").read_text(encoding="utf-8").split())

    def interval(first, second):
        mean, half = paired_interval(
            *zip(*((first[seed], second[seed]) for seed in first if seed in second), strict=True)
        )
        return f"{mean:+.1f}", f"{mean - half:.1f} to {mean + half:.1f}"

    methods = {"head": "head alone", "bitfit": "BitFit", "full": "full fine-tuning", "adalora": "AdaLoRA"}
    for method, label in (methods | {"pruning": "pruning alone"}).items():
        mean, between = interval(scores("minilm_glue", "cola", method), scores("minilm_cpu", "cola", "lora"))
        assert f"| {label} | {mean} | {between} |" in text
    for task, words in (("cola", "CoLA is {} points better ({})"), ("mrpc", "MRPC {} ({})")):
        mean, between = interval(scores("minilm_cpu", task, "lora"), scores("minilm_glue", task, "lora"))
        assert words.format(mean.lstrip("+"), between) in text
    lora = scores("questions", "cola", "lora")
    mean, between = interval(scores("questions", "cola", "prilora") | scores("minilm_cpu", "cola", "prilora"), lora)
    assert f"the answer would be {mean} ({between})" in text


@pytest.mark.parametrize("name", STUDIES)
def test_one_command_makes_a_studys_tables_from_the_raw_runs(name, tmp_path):
    written = reporting.write(ROOT / "results" / f"{name}.jsonl", tmp_path)
    for path in written.values():
        kept = ROOT / "results" / path.name
        assert kept.is_file(), kept
        if path.suffix != ".png":
            assert path.read_bytes() == kept.read_bytes()


@pytest.mark.parametrize("encoder", learning_rates.RATES)
def test_the_tables_of_learning_rates_are_those_of_the_raw_runs(encoder):
    stated = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    assert learning_rates.table(ROOT / "results" / f"{encoder}_learning_rates.jsonl") in stated


def test_the_tables_of_speed_are_those_of_the_raw_measurements():
    results = show.gather(read_records(ROOT / "results" / "speed.jsonl"), "cpu")
    assert show.tables(results) == (ROOT / "results" / "speed.md").read_text(encoding="utf-8")
    assert show.headline(results) in (ROOT / "docs" / "costs.md").read_text(encoding="utf-8")
