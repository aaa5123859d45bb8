"""The house itself: imports run one way, files fit one sitting, the method needs torch and little else."""

import ast
import contextlib
import gc
import graphlib
import io
import re
import sys
import tokenize
from pathlib import Path

import pytest

import prilora_lite
from tests.environments import call

PACKAGE = Path(__file__).parent.parent / "prilora_lite"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# What each folder may import besides itself; "" is the method, the package's own files, without cli and __main__.
MAY_IMPORT = {
    "shared": (),
    "models": ("shared", ""),
    "": ("shared", "models"),
    "pocket": ("shared",),
    "integrations": ("shared", "models", ""),
    "experiments": ("shared", "models", "", "pocket", "integrations"),
    "teaching": ("shared", "models", "", "pocket", "integrations", "experiments"),
}  # fmt: skip
ON_TOP = ("prilora_lite", "prilora_lite.cli", "prilora_lite.__main__")  # may import all
MEASURED = {name: path for name, path in MODULES.items() if name not in ON_TOP}
METHOD = [name for name in MEASURED if MODULES[name].parent == PACKAGE]


def tree_of(name):
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def folder_of(name):
    return "" if MODULES[name].parent == PACKAGE else name.split(".")[1]


def imports_of(name):
    """Modules of the package that a module imports, wherever in it."""
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "prilora_lite":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "prilora_lite")


@pytest.mark.parametrize("name", MEASURED)
def test_imports_run_one_way(name):
    folder = folder_of(name)
    for imported in imports_of(name):
        assert imported not in ON_TOP, f"{name} imports {imported}"
        assert folder_of(imported) in (folder, *MAY_IMPORT[folder]), f"{name} imports {imported}"


def test_no_imports_in_circles():
    graphlib.TopologicalSorter({name: set(imports_of(name)) for name in MODULES}).prepare()


@pytest.mark.parametrize("name", METHOD)
def test_the_method_needs_torch_and_safetensors_alone(name):
    loaded_when_used = {"pandas"}  # by Report.to_dataframe
    for node in ast.walk(tree_of(name)):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module] if isinstance(node, ast.ImportFrom) else []
        for module in modules:
            top = module.split(".")[0]
            allowed = {"torch", "safetensors", "prilora_lite", *loaded_when_used, *sys.stdlib_module_names}
            assert top in allowed, f"{name} imports {module}"


NO_CODE = (
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
)  # fmt: skip


def lines_of_code(name):
    """Numbers of a file's lines that hold more than a comment or a docstring."""
    source = MODULES[name].read_text(encoding="utf-8")
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


@pytest.mark.parametrize("name", MODULES)
def test_a_file_fits_one_sitting(name):
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("name", MODULES)
def test_a_file_begins_with_one_line_that_says_what_is_in_it(name):
    first = MODULES[name].read_text(encoding="utf-8").partition("\n")[0].removeprefix("r")
    assert re.fullmatch(r'""".*[.:?](""")?', first), first


@pytest.mark.parametrize("name", MODULES)
def test_a_function_fits_one_screen(name):
    code = lines_of_code(name)
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = len(code & set(range(node.lineno, node.end_lineno + 1)))
            assert length <= 70, f"{node.name} in {name} has {length} lines of code"


IMPORTS = """
import prilora_lite.adapt
from prilora_lite import adapt
print(type(adapt).__name__)
"""


def test_a_public_name_stays_a_function_when_the_module_of_its_name_was_imported(tmp_path):
    assert call(sys.executable, "-c", IMPORTS, cwd=tmp_path, PYTHONPATH=str(PACKAGE.parent)).strip() == "function"


@pytest.mark.parametrize("collects", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_while_a_module_is_loaded_no_garbage_is_looked_for_and_then_as_before(monkeypatch, collects, fails):
    during = []

    def load(module):
        during.append((module, gc.isenabled()))
        if fails:
            raise ModuleNotFoundError("No module named 'peft'", name="peft")
        return prilora_lite

    monkeypatch.setattr(prilora_lite, "import_module", load)
    before = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        with pytest.raises(ModuleNotFoundError) if fails else contextlib.nullcontext():
            assert prilora_lite.plots is prilora_lite
        assert gc.isenabled() is collects
    finally:
        (gc.enable if before else gc.disable)()
    assert during == [("prilora_lite.teaching.plots", False)]
