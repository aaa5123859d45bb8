"""The house itself: imports run one way, files fit one sitting, the method needs torch and little else."""

import ast
import graphlib
import sys
from pathlib import Path

import pytest

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


NOT_YET = ("integrations.peft_format",)


@pytest.mark.parametrize("name", [name for name in MEASURED if not name.endswith(NOT_YET)])
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
