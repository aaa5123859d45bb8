"""Does it work where it is not developed? Wheel and sdist built, installed in a fresh environment, and used there.

    python -m benchmarks.environments newest                      # the latest releases that pyproject.toml allows
    python -m benchmarks.environments oldest --python python3.11  # the oldest ones
    python -m benchmarks.environments colab --python python3.13   # what Colab ships

Packages come from the index, torch perhaps as a build of several gigabytes; the environment is gone afterwards. What
came of it is kept in ``results/environments.json``, one entry for each set and Python. It fails if a step did.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from prilora_lite.experiments.own_files import in_markdown
from tests.environments import call

ROOT = Path(__file__).parent.parent

# August 2026
COLAB = {
    "torch": "2.11.0", "transformers": "5.15.0", "datasets": "4.0.0", "accelerate": "1.14.0", "peft": "0.20.0",
    "numpy": "2.1.3", "pandas": "2.2.3", "matplotlib": "3.10.0", "scikit-learn": "1.6.1", "scipy": "1.16.3",
    "ipywidgets": "7.7.1", "ipython": "7.34.0",
}  # fmt: skip

TOOLS = ("pytest", "hypothesis", "ipywidgets", "nbclient")  # for the tests; and what the faces of the library import

# The tests that need nothing but the package
TESTS = (
    "method",
    "models",
    "integrations",
    "experiments/test_baselines.py",
    "experiments/test_comparison.py",
    "experiments/test_encoders.py",
    "experiments/test_finetune.py",
    "experiments/test_tasks.py",
    "teaching/test_exercises.py",
    "teaching/test_plots.py",
    "teaching/test_widgets.py",
)

INSTALLED = """\
import sys
from pathlib import Path

import prilora_lite

assert Path(prilora_lite.__file__).is_relative_to(sys.prefix), f"not the installed one: {prilora_lite.__file__}"
"""

IMPORTS = """
import importlib

for name in prilora_lite.__all__:
    getattr(prilora_lite, name)
package = Path(prilora_lite.__file__).parent
for file in package.rglob("*.py"):  # most folders are packages without an __init__, which pkgutil passes over
    if file.stem not in ("__main__", "__init__", "autograde", "steps"):  # the last two need the extra classroom
        importlib.import_module(".".join(file.relative_to(package.parent).with_suffix("").parts))
"""

ADAPTER = """
import torch
from prilora_lite import TASKS, PRILoRAConfig, Pruner, adapt, load_adapter, load_encoder, save_adapter

model, tokenizer = load_encoder("pocket", TASKS["pocket-rte"])
adapt(model, PRILoRAConfig())
pruner = Pruner(model.train(), ratio=0.5, interval=1)
batch = tokenizer(["no animal sleeps .", "the dog sees a bird ."], padding=True, return_tensors="pt")
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
for _ in range(2):
    model(**batch, labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    pruner.step()
save_adapter(model, "adapter.safetensors")
fresh, _ = load_encoder("pocket", TASKS["pocket-rte"])
before = fresh(**batch).logits
load_adapter(fresh, "adapter.safetensors")
with torch.no_grad():
    assert torch.equal(fresh(**batch).logits, model.eval()(**batch).logits)
    assert not torch.equal(fresh(**batch).logits, before)
"""


def requirements(*extras: str) -> list[Requirement]:
    """The dependencies of the project, and those of some of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *(text for extra in extras for text in project["optional-dependencies"][extra])]
    return [Requirement(text) for text in texts]


def lower_bounds() -> dict[str, str]:
    """The oldest release of each dependency that pyproject.toml allows, by the dependency's name."""
    bounds = {}
    for requirement in requirements("lab", "peft", "test"):
        (bound,) = [part.version for part in requirement.specifier if part.operator == ">="]
        bounds[requirement.name] = bound
    return bounds


SETS: dict[str, Callable[[], dict[str, str]]] = {
    "newest": dict, "oldest": lower_bounds, "colab": lambda: COLAB,
}  # fmt: skip


class Environment:
    """A fresh environment in a folder, with wheel and sdist of this tree beside it.

    Args:
        folder: an empty folder.
        base: the Python that it is made with.
        pins: package -> version; others are the newest that go with them.
    """

    def __init__(self, folder: Path, base: str, pins: dict[str, str]) -> None:
        self.folder, self.base = folder, base
        self.programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        self.pins = folder / "pins.txt"
        self.pins.write_text("".join(f"{name}=={pin}\n" for name, pin in pins.items()), encoding="utf-8")

    def python(self, *arguments: str | Path, cwd: Path | None = None, **variables: str) -> str:
        """What the environment's Python prints, called in an empty folder unless another is given."""
        return call(self.programs / "python", *arguments, cwd=cwd or self.empty(), **variables)

    def pip(self, *arguments: str | Path) -> None:
        """Call pip with the pins for all that it installs, and with this environment's own settings of pip."""
        kept = {n: v for n, v in os.environ.items() if n.startswith("PIP_") or n.lower().endswith("_proxy")}
        kept |= {"PIP_CONSTRAINT": str(self.pins), "PIP_NO_CACHE_DIR": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        self.python("-m", "pip", "install", "--quiet", "--no-compile", *arguments, cwd=self.folder, **kept)

    def empty(self) -> Path:
        """A new empty folder."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def build(self) -> None:
        """Wheel and sdist of this tree."""
        call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", self.folder, cwd=ROOT)

    def install(self) -> None:
        """The wheel with its dependencies, PEFT, and what the tests need."""
        call(self.base, "-m", "venv", self.folder / "venv", cwd=self.folder)
        (wheel,) = self.folder.glob("*.whl")
        self.pip(f"prilora-lite[peft] @ {wheel.as_uri()}", *TOOLS)

    def imports(self) -> None:
        """Every public name and every module."""
        self.python("-c", INSTALLED + IMPORTS)

    def ablate(self) -> None:
        """The README's first command, shortened."""
        folder = self.empty()
        out = call(self.programs / "prilora-lite", "ablate", "--set", "epochs=0.1", cwd=folder)
        assert "PRILoRA (4..12, pruned)" in out, out
        assert (folder / "runs" / "ablation.jsonl").read_bytes().count(b"\n") == 4

    def adapter(self) -> None:
        """One is trained, pruned, saved and loaded."""
        self.python("-c", INSTALLED + ADAPTER)

    def tests(self) -> str:
        """Those that need the package alone, on the installed one; their number."""
        folder = self.empty()
        shutil.copytree(ROOT / "tests", folder / "tests")
        (folder / "conftest.py").write_text(INSTALLED, encoding="utf-8")
        chosen = [f"tests/{name}" for name in TESTS]
        out = self.python("-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen, cwd=folder)
        return re.search(r"\d+ passed(, \d+ skipped)?", out).group()

    def sdist(self) -> None:
        """In the wheel's place."""
        (sdist,) = self.folder.glob("*.tar.gz")
        self.pip("--force-reinstall", "--no-deps", sdist)
        self.imports()

    def versions(self) -> dict[str, str]:
        """Of Python and of the dependencies."""
        code = (
            "import json, platform, sys; from importlib.metadata import version; print(json.dumps("
            "{'python': platform.python_version()} | {name: version(name) for name in sys.argv[1:]}))"
        )
        names = {requirement.name for requirement in requirements("peft")} | {*TOOLS, "huggingface-hub"}
        return json.loads(self.python("-c", code, *sorted(names)))


STEPS = ("build", "install", "imports", "ablate", "adapter", "tests", "sdist")


def check(environment: Environment) -> dict[str, Any]:
    """Go through the steps up to the first that fails; what came of them.

    Returns:
        ``versions`` of what was installed, ``steps`` with an outcome each, whether it ``passed``, and ``seconds``.
    """
    started, steps, versions = time.perf_counter(), {}, {}
    for name in STEPS:
        print(f"{name} ...", end=" ", flush=True)
        began = time.perf_counter()
        try:
            steps[name] = getattr(environment, name)() or "ok"
        except AssertionError as error:  # a command that failed, with all it printed
            print(f"failed\n{error}", flush=True)
            steps[name] = "failed"
            break
        print(f"{steps[name]}, {time.perf_counter() - began:.0f} s", flush=True)
        if name == "install":
            versions = environment.versions()
    passed = "failed" not in steps.values()
    return {"versions": versions, "steps": steps, "passed": passed, "seconds": round(time.perf_counter() - started)}


def table(entries: dict[str, Any]) -> str:
    """The entries as a Markdown table."""
    columns = ("python", "torch", "transformers", "datasets", "accelerate", "peft", "numpy", "pandas")
    lines = [["versions", *columns, "tests", ""], ["---"] * (len(columns) + 3)]
    for name, entry in sorted(entries.items()):
        cells = [entry["versions"].get(column, "-") for column in columns]
        outcome = "works" if entry["passed"] else "fails"
        lines.append([name.split()[0], *cells, entry["steps"].get("tests", "-"), outcome])
    return in_markdown(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("set", choices=SETS, help="which versions of the dependencies")
    parser.add_argument("--python", default=sys.executable, help="which Python (default: this one)")
    parser.add_argument("--torch", metavar="VERSION", help="of PyTorch, in place of the set's own")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "environments.json", metavar="FILE")
    options = parser.parse_args()
    base = shutil.which(options.python)
    if base is None:
        parser.error(f"there is no Python {options.python!r} here: give the name or the path of one")
    known = json.loads(options.output.read_text(encoding="utf-8")) if options.output.is_file() else {}
    pins = SETS[options.set]() | ({"torch": options.torch} if options.torch else {})
    with tempfile.TemporaryDirectory() as folder:
        version = call(base, "-c", "import sys; print(*sys.version_info[:2], sep='.')", cwd=folder).strip()
        entry = check(Environment(Path(folder), os.path.abspath(base), pins))
    known[f"{options.set} on Python {version}"] = entry
    options.output.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(table(known))
    return 0 if entry["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
