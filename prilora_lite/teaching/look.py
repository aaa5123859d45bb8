"""What a person should look at in learners' code: what an answer has no need of. A note costs no points.

Run by its path, inside the sandbox, in a kernel that has run nothing else yet; IPython's own parser reads the cells.
"""

from __future__ import annotations

import ast
import builtins
import json
import re
from collections.abc import Iterator
from pathlib import Path

MOST = 20  # notes for a submission

# What an answer has no need of
UNUSUAL = {
    "_getframe", "currentframe", "getouterframes", "settrace", "setprofile", "get_ipython", "_ih", "_oh", "In",
    "builtins", "ctypes", "gc", "_exit", "subprocess", "socket", "eval", "exec", "compile", "globals", "vars",
    "locals", "setattr", "delattr", "displayhook", "excepthook", "set_custom_exc", "showtraceback",
    "ast_transformers", "ast_node_interactivity", "input_transformers_post", "input_transformers_cleanup",
    "InteractiveShell", "_instance", "run_cell", "user_ns", "history_manager", "f_back", "f_globals",
    "f_locals", "tb_frame", "gi_frame", "cr_frame", "SystemExit", "BaseException", "breakpoint", "exit", "quit", "_ip",
    "_os", "_sys", "ctypeslib",
}  # fmt: skip
INPUTS = re.compile(r"_i+|_i\d+|_dh")  # IPython's names for what was typed in: a test's text, too
# What it may need of these two; all the rest is odd
PARTS = {
    "os": {"path", "getcwd", "listdir", "makedirs", "sep", "linesep", "cpu_count"},
    "sys": {"stdout", "stderr", "version", "version_info", "float_info", "maxsize", "path", "getsizeof"},
}
# Methods of a class by which an object can pass for another
DISGUISE = {
    "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__bool__", "__int__", "__float__", "__index__",
    "__round__", "__getattr__", "__getattribute__", "__instancecheck__", "__torch_function__",
    "__torch_dispatch__", "__array__", "__array_ufunc__", "__array_function__", "__del__", "__add__", "__radd__",
    "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__", "__matmul__", "__rmatmul__", "__neg__", "__abs__",
    "__hash__", "__contains__", "__setattr__", "__new__", "__subclasscheck__",
}  # fmt: skip
PLAIN = {"__init__", "__name__", "__version__", "__doc__", "__file__", "__call__", "__len__", "__post_init__"}
# What answers import; of IPython, what shows something
COMMON = {
    "__future__", "abc", "bisect", "cmath", "collections", "contextlib", "copy", "csv", "dataclasses",
    "datasets", "datetime", "decimal", "enum", "fractions", "functools", "heapq", "io", "itertools", "json",
    "logging", "math", "matplotlib", "numbers", "numpy", "operator", "os", "pandas", "pathlib", "pprint",
    "prilora_lite", "random", "re", "scipy", "seaborn", "sklearn", "statistics", "string", "sys", "textwrap",
    "time", "torch", "tqdm", "transformers", "typing", "warnings",
}  # fmt: skip
# What the assignments ask to write, and the library has
LIBRARY = {
    "LoRALinear", "linear_ranks", "budget_ranks", "adapter_parameters", "keep_mask", "importance", "InputNorms",
    "Pruner", "model_answers", "mean_square", "moving_average", "survivors", "paired_interval", "decide",
}  # fmt: skip
HARMLESS_MAGICS = {"pinfo", "pinfo2", "matplotlib", "time", "timeit", "prun", "capture", "precision", "pip", "conda"}
RUNS_CODE = {"time", "timeit", "prun", "capture"}
SETTINGS = re.compile(r"load_ext (autoreload|tensorboard)\b|autoreload\b|config InlineBackend\.")  # that are common


def look(file: str) -> str:
    """The notes as JSON.

    Args:
        file: of JSON: ``parts``, each with ``place`` (what a note calls it), ``source`` and ``given`` (whether it is
            the course's own: what it imports is known, and nothing in it is odd); ``names`` that the course sets.
    """
    asked = json.loads(Path(file).read_text(encoding="utf-8"))
    trees = []
    for part in asked["parts"]:
        try:
            trees.append((part, list(_trees(part["source"]))))
        except SyntaxError:
            trees.append((part, []))  # grading will show it
        except (RecursionError, MemoryError, ValueError):
            trees.append((part, ["it can't be parsed"]))
    every = [node for _, found in trees for tree in found if isinstance(tree, ast.AST) for node in ast.walk(tree)]
    modules = {
        (alias.asname or alias.name).split(".")[0]: (getattr(node, "module", None) or alias.name).split(".")[0]
        for node in every
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    changeable = set(modules) | _aliases(every, set(modules))
    own = {name for part, found in trees if not part["given"] for name in _bound(found)}
    notes: dict[str, None] = {}
    for part, found in trees:
        if part["given"]:
            continue
        for tree in found:
            odd = [tree] if isinstance(tree, str) else _odd(tree, modules, changeable, own - set(modules))
            notes |= dict.fromkeys(f"look at {part['place']}: {what}" for what in odd)
        for name in sorted(
            _bound(found) & (set(asked["names"]) | (set(dir(builtins)) - {"_", "copyright", "license"}))
        ):
            notes[f"look at {part['place']}: takes the name {name}"] = None
    kept = list(notes)
    return json.dumps(kept if len(kept) <= MOST else [*kept[:MOST], f"and {len(kept) - MOST} more"])


def _trees(source: str) -> Iterator[ast.AST | str]:
    """The code of a cell, that within its magics as well; a text for a magic that is odd by itself."""
    from IPython.core.inputtransformer2 import TransformerManager

    tree = ast.parse(TransformerManager().transform_cell(source))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_shell(node.func.value):
            node.func = ast.Name(id="magic", ctx=ast.Load())  # that it is written so is IPython's doing
            arguments = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            yield from _magic(source, [str(argument) for argument in arguments])
    yield tree


def _is_shell(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "get_ipython"


def _magic(source: str, arguments: list[str]) -> Iterator[ast.AST | str]:
    """What is odd about a magic, with the code that it runs."""
    name, *code = arguments or [""]
    if "get_ipython" in source:
        yield "get_ipython"
    elif name not in HARMLESS_MAGICS and not SETTINGS.match(" ".join(arguments)):
        yield f"a magic or a command: {name[:20].split(' ')[0]}"
    for text in code:
        if name in RUNS_CODE:
            try:
                yield from _trees(re.sub(r"^(\s*-\w+(\s+\d+)?)+", "", text))
            except SyntaxError:
                yield f"a magic or a command: {name}"


def _bound(trees: list[ast.AST | str]) -> set[str]:
    """Names that code sets outside of functions and classes."""
    names = set()
    for tree in trees:
        inside = _variables(tree) if isinstance(tree, ast.Module) else set()
        for node in tree.body if isinstance(tree, ast.Module) else ():
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                names.add(node.name)
                continue
            for inner in ast.walk(node):
                if isinstance(inner, ast.Name) and isinstance(inner.ctx, (ast.Store, ast.Del)):
                    names |= {inner.id} if id(inner) not in inside else set()
                elif isinstance(inner, (ast.Global, ast.Nonlocal)):
                    names |= set(inner.names)
                elif isinstance(inner, ast.alias) and inner.asname:
                    names.add(inner.asname)
    return names


def _aliases(nodes: list[ast.AST], modules: set[str]) -> set[str]:
    """Other names for a module or its parts: ``m = torch.nn``, ``for m in (math, torch)``."""
    found: set[str] = set()
    for node in nodes:
        value = getattr(node, "iter" if isinstance(node, ast.For) else "value", None)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        values = value.elts if isinstance(value, (ast.Tuple, ast.List)) else [value]
        if any(isinstance(v, (ast.Name, ast.Attribute)) and _root(v) in modules | found for v in values):
            found |= {n.id for t in targets if t is not None for n in ast.walk(t) if isinstance(n, ast.Name)}
    return found


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
LISTS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def _variables(tree: ast.AST) -> set[int]:
    """The names in code, each by its ``id``, that are variables of a function or a comprehension around them."""
    found: set[int] = set()
    waiting: list[tuple[ast.AST, set[str]]] = [(tree, set())]  # no recursion: a sum may be thousands of terms deep
    while waiting:
        node, known = waiting.pop()
        outside: list[ast.AST] = []  # what is computed before the function runs
        within = known
        if isinstance(node, FUNCTIONS):
            hints = [argument.annotation for argument in ast.walk(node.args) if isinstance(argument, ast.arg)]
            given = [*node.args.defaults, *node.args.kw_defaults, *hints, getattr(node, "returns", None)]
            outside = [*getattr(node, "decorator_list", []), *filter(None, given)]
            own, shared = _set_in(node)
            within = known - shared | own
        elif isinstance(node, LISTS):
            outside = [node.generators[0].iter]
            within = known | {n.id for g in node.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)}
        elif isinstance(node, ast.Name) and node.id in known:
            found.add(id(node))
        waiting += [(part, known) for part in outside]
        rest = [node]
        while rest:
            for child in ast.iter_child_nodes(rest.pop()):
                if any(child is part for part in outside):
                    continue
                if isinstance(child, (ast.arguments, ast.arg, ast.comprehension)):
                    rest.append(child)
                else:
                    waiting.append((child, within))
    return found


def _set_in(function: ast.AST) -> tuple[set[str], set[str]]:
    """Parameters of a function and names that its own code sets; and names that it declares global."""
    own = {argument.arg for argument in ast.walk(function.args) if isinstance(argument, ast.arg)}
    rest, shared, of_outer = list(ast.iter_child_nodes(function)), set(), set()
    while rest:
        node = rest.pop()
        if isinstance(node, ast.Global):
            shared |= set(node.names)
        elif isinstance(node, ast.Nonlocal):
            of_outer |= set(node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        if not isinstance(node, (*FUNCTIONS, *LISTS, ast.ClassDef)):
            rest += ast.iter_child_nodes(node)
    return own - shared - of_outer, shared


def _odd(tree: ast.AST, modules: dict[str, str], changeable: set[str], own: set[str]) -> Iterator[str]:
    """What is odd about code.

    Args:
        tree: the code.
        modules: name -> the module that it is, or comes from.
        changeable: these names, and others for the same.
        own: names that the learner sets.
    """
    variables = _variables(tree)
    for node in ast.walk(tree):
        if id(node) in variables and not _hidden(node.id):
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from _odd_import(node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name in DISGUISE:
            yield f"defines {node.name}"
        elif isinstance(node, ast.Name):
            typed_in = INPUTS.fullmatch(node.id) and node.id not in own
            if node.id in UNUSUAL - own or typed_in or (_hidden(node.id) and node.id != "__name__"):
                yield node.id
            elif node.id in LIBRARY - own:
                yield f"uses {node.id}"
        elif isinstance(node, ast.Attribute):
            root = _root(node)
            if node.attr in UNUSUAL or _hidden(node.attr):
                yield node.attr
            elif isinstance(node.value, ast.Name) and node.attr not in PARTS.get(modules.get(root, ""), {node.attr}):
                yield f"{modules[root]}.{node.attr}"
            elif root in modules and node.attr in PARTS:  # by way of another module
                yield f"{root}.{node.attr}"
            elif node.attr in LIBRARY and modules.get(root) == "prilora_lite":
                yield f"uses {node.attr}"
            if root in changeable | {""} and isinstance(node.ctx, (ast.Store, ast.Del)):
                yield f"changes {ast.unparse(node)[:60]}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            if len(node.args) > 1 and not isinstance(node.args[1], ast.Constant):
                yield "getattr"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "type":
            if len(node.args) > 1:
                yield "makes a class by type()"
        elif isinstance(node, ast.Constant) and _odd_text(node.value):
            yield node.value[:20]


def _odd_text(value: object) -> bool:
    return isinstance(value, str) and (value in (UNUSUAL | DISGUISE) - {"In"} or value.startswith(("/proc", "/dev/")))


def _odd_import(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    module = getattr(node, "module", None) or ""
    for alias in node.names:
        source = module or alias.name
        if alias.name in UNUSUAL or source.split(".")[0] in UNUSUAL:
            yield alias.name if alias.name in UNUSUAL else source.split(".")[0]
        elif module.startswith("prilora_lite") and alias.name in LIBRARY | {"*"}:
            yield f"imports {alias.name}"
        elif module in PARTS and alias.name not in PARTS[module]:
            yield f"{module}.{alias.name}"
        elif source.split(".")[0] not in COMMON and not source.startswith("IPython.display"):
            yield f"imports {source.split('.')[0]}"


def _hidden(name: str) -> bool:
    """Whether it is one of Python's own names that answers have no need of, such as ``__globals__``."""
    return name.startswith("__") and name.endswith("__") and name not in PLAIN


def _root(node: ast.AST) -> str:
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""
