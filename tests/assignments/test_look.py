"""What the class's table tells a person to look at, and what it leaves alone."""

import json

import pytest

from prilora_lite.teaching.autograde import _given_names
from prilora_lite.teaching.look import MOST, look
from tests.assignments.submissions import ASSIGNMENTS, named, notebook, solutions, text

GIVEN = "import math\nfrom collections.abc import Callable, Sequence\n\nROUNDING = 'half to even'"


def notes(tmp_path, code, names=("ROUNDING",), **files):
    """Notes on a cell of code, below what the course gives."""
    parts = [{"place": "cell 4", "source": GIVEN, "given": True}, {"place": "cell 6", "source": code, "given": False}]
    parts += [{"place": f"{name}.py", "source": source, "given": False} for name, source in files.items()]
    file = tmp_path / "look.json"
    file.write_text(json.dumps({"parts": parts, "names": list(names)}), encoding="utf-8")
    return json.loads(look(str(file)))


CHEAT = "from prilora_lite import linear_ranks\n\n\ndef schedule(*a):\n    return linear_ranks(*a)"


@pytest.mark.parametrize(
    "before",
    [
        "", "%matplotlib inline\n", "%%time\n", "%%timeit -n 1 -r 1\n", "%%capture\n%%time\n", "!true\n", "x = !ls\n",
        "%%prun\n", "?len\n", "%%capture output --no-stdout\n",
    ],
)  # fmt: skip
def test_a_magic_hides_nothing(before, tmp_path):
    assert "look at cell 6: imports linear_ranks" in notes(tmp_path, before + CHEAT)


@pytest.mark.parametrize(
    ("code", "note"),
    [
        ("import prilora_lite as p\np.linear_ranks(3, 1, 2)", "uses linear_ranks"),
        ("import prilora_lite\nprilora_lite.ranks.linear_ranks(3, 1, 2)", "uses linear_ranks"),
        ("from prilora_lite.ranks import *", "imports *"),
        ("from prilora_lite.ranks import linear_ranks as f", "imports linear_ranks"),
        ("linear_ranks(3, 1, 2)", "uses linear_ranks"),
        ("import math\nmath.isclose = max", "changes math.isclose"),
        ("import torch\ntorch.nn.functional.linear = 1", "changes torch.nn.functional.linear"),
        ("import math\nfor math.floor in [1]:\n    pass", "changes math.floor"),
        ("import math\ndel math.floor", "changes math.floor"),
        ("import math\nm = math\nm.isclose = max", "changes m.isclose"),
        ("import torch\nf, g = torch.nn.functional, 1\nh = f\nh.linear = 1", "changes h.linear"),
        ("import math, torch\nfor m in (math, torch):\n    m.allclose = max", "changes m.allclose"),
        ("import math\n(m := math).isclose = max", "changes (m := math).isclose"),
        ("import math\n(math if True else 0).isclose = max", "changes (math if True else 0).isclose"),
        ("Yes = type('Yes', (int,), {'__e' + 'q__': lambda a, b: True})", "makes a class by type()"),
        ("class Yes(int):\n    __eq__ = lambda a, b: True", "__eq__"),
        ("import sys\nsys.displayhook(4)", "displayhook"),
        ("import sys\nsys.modules['math'] = 1", "sys.modules"),
        ("from sys import modules", "sys.modules"),
        ("import os\nos.fork()", "os.fork"),
        ("from IPython.core.interactiveshell import InteractiveShell as S", "InteractiveShell"),
        ("import IPython", "imports IPython"),
        ("import ipykernel.kernelapp", "imports ipykernel"),
        ("from importlib import import_module", "imports importlib"),
        ("import unittest.mock", "imports unittest"),
        ("schedule.__globals__", "__globals__"),
        ("().__class__.__base__", "__class__"),
        ("getattr(schedule, '__glo' + 'bals__')", "getattr"),
        ("d = {'f': '__globals__'}\nx = '_getframe'", "_getframe"),
        ("class Yes:\n    def __eq__(self, other):\n        return True", "defines __eq__"),
        ("class T:\n    def __torch_function__(self):\n        pass", "defines __torch_function__"),
        ("get_ipython().run_line_magic('time', '')", "get_ipython"),
        ("%%time -x no code\nimport ctypes", "ctypes"),
        ("%time no code", "a magic or a command: time"),
        ("%run helper.py", "a magic or a command: run"),
        ("%load_ext helper", "a magic or a command: load_ext"),
        ("%config InteractiveShell.xmode = 'Minimal'", "a magic or a command: config"),
        ("exit._ip.events.register('pre_run_cell', print)", "_ip"),
        ("print(_i7)", "_i7"),
        ("print(_ii, _dh)", "_ii"),
        ("import torch\ntorch.sys.modules['math'] = 1", "torch.sys"),
        ("import pathlib\npathlib.os.system('ls')", "pathlib.os"),
        ("import random\nrandom._os.fork()", "_os"),
        ("open('/proc/self/mem', 'rb')", "/proc/self/mem"),
        ("class N(int):\n    def __sub__(self, other):\n        return 0", "defines __sub__"),
        ("%%javascript\nalert(1)", "a magic or a command: javascript"),
        ("!curl x", "a magic or a command: curl"),
        ("def all(x):\n    return True", "takes the name all"),
        ("sum = len", "takes the name sum"),
        ("from math import floor as round", "takes the name round"),
        ("ROUNDING = 'half up'", "takes the name ROUNDING"),
        ("def f():\n    pass\nif True:\n    global ROUNDING", "takes the name ROUNDING"),
        ("x = " + "-" * 50_000 + "1", "it can't be parsed"),
    ],
)
def test_what_an_answer_has_no_need_of_is_noted(code, note, tmp_path):
    assert f"look at cell 6: {note}" in notes(tmp_path, code)


def test_a_helper_file_is_looked_at_as_well(tmp_path):
    said = notes(tmp_path, "from helper import schedule", helper="import ctypes\n" + CHEAT)
    assert said[:3] == [
        "look at cell 6: imports helper",
        "look at helper.py: ctypes",
        "look at helper.py: imports linear_ranks",
    ]


@pytest.mark.parametrize(
    "code",
    [
        "import sys\n\n\ndef f():\n    print('debug', file=sys.stderr)",
        "from tqdm.auto import tqdm\nfor _ in tqdm(range(3)):\n    pass",
        "import logging, warnings\nwarnings.warn('odd')\nlogging.warning('odd')",
        "%matplotlib inline\nimport matplotlib.pyplot as plt\nimport numpy as np",
        "import os\nfrom pathlib import Path\nprint(os.getcwd(), Path('x').exists())",
        "class M:\n    def __init__(self):\n        super().__init__()\n        self.importance = 1",
        "def importance(A, s):\n    return A\n\n\nimportance(1, 2)",
        "import math\nx = math.floor(2.5)\nx += 1",
        "import os\npath = os.path\nprint(path.join('a', 'b'), type(path))",
        "import torch\nx = torch.zeros(3)\nx.grad = None\nfor x in (1, 2):\n    pass",
        "import pandas as pd\nd = pd.DataFrame({'a': [1]})\nd.columns = ['b']\nd.iloc[0].name = 'x'",
        "this is no Python",
        "%load_ext autoreload\n%autoreload 2\n%config InlineBackend.figure_format = 'svg'\n%precision 3",
        "class N:\n    def __repr__(self):\n        return 'N'\n\n    def __getitem__(self, i):\n        return i",
        "for _i in range(3):\n    print(_i)",
        "x = [0 for _i in range(3)]",
        "def f(A, s):\n    importance = A * s\n    return importance > 0",
        "def f(importance, *, vars=2):\n    return (lambda decide: decide + vars)(importance)",
        "class P:\n    def go(self, decide):\n        def inner():\n            return decide\n\n        return inner",
        "PRILoRAConfig?",
        "def f(x):\n    return " + "x + " * 2000 + "x",
        "await f()",
    ],
)
def test_plain_answers_have_no_note(code, tmp_path):
    assert notes(tmp_path, code) == []


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("def f(x=In):\n    In = 0\n    return x", "In"),  # a default is computed outside
        ("def f(x: In):\n    In = 0", "In"),
        ("def f(x) -> In:\n    In = 0", "In"),
        ("@gc\ndef f():\n    gc = 0", "gc"),
        ("def f():\n    vars = 0\n\n\nvars()", "vars"),  # another vars
        ("def f():\n    global gc\n    gc = 1\n\n\ndef g():\n    gc.collect()", "gc"),
        ("def f():\n    gc = 1\n\n    def g():\n        global gc\n        return gc.collect()", "gc"),
        ("[In for In in In]", "In"),
        ("class P:\n    gc = 0\n\n    def f(self):\n        return gc", "gc"),
    ],
)
def test_a_variable_of_the_same_name_elsewhere_hides_nothing(code, name, tmp_path):
    assert f"look at cell 6: {name}" in notes(tmp_path, code)


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_the_courses_own_answers_have_no_note(assignment, tmp_path):
    cells, answers = named(notebook(assignment)), solutions(assignment)
    parts = [
        {
            "place": name,
            "source": answers.get(name, text(cell)),
            "given": name not in answers,
        }
        for name, cell in cells.items()
        if cell["cell_type"] == "code"
    ]
    file = tmp_path / "look.json"
    asked = {"parts": parts, "names": sorted(_given_names(notebook(assignment)))}
    file.write_text(json.dumps(asked), encoding="utf-8")
    assert json.loads(look(str(file))) == []


def test_hundreds_of_notes_become_a_few(tmp_path):
    said = notes(tmp_path, "\n".join(f"import module{number}" for number in range(500)))
    assert len(said) == MOST + 1
    assert said[-1] == f"and {500 - MOST} more"
