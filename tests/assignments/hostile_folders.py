"""Whole hand-ins that attack the grader, the class, the teacher, or that only look as if they did.

Name -> a function that writes a folder, the tests whose points it loses (None: it can't be graded), part of its notes.
"""

import json
import os
from pathlib import Path

from tests.assignments.hostile import FIRST, A
from tests.assignments.submissions import answered, points, solutions

NAME = f"{A}.ipynb"
RIGHT = solutions(A)
EVERY = set(points(A))
LINE = {"a2_line_test"}


def _hand_in(change=lambda submission: None, files=(), **answers):
    """A right submission but for these answers, with a change of the notebook and files beside it."""

    def write(folder):
        submission = answered(A, RIGHT | answers)
        change(submission)
        (folder / NAME).write_text(json.dumps(submission), encoding="utf-8")
        for name, text in dict(files).items():
            (folder / name).write_text(text, encoding="utf-8")

    return write


def _first(code, **more):
    """Code that runs before a right first answer."""
    return _hand_in(a2_line=f"{code}\n{RIGHT['a2_line']}", **more)


def _in_answer(code, first=""):
    """Code that runs when a test asks for the first answer, which is right."""
    head, body = RIGHT["a2_line"].split("    if num_layers", 1)
    return _hand_in(a2_line=f"{first}\n\n{head}    {code}\n    if num_layers{body}")


def _shows(value, name, extra=""):
    return f"import sys\n\n\ndef {name}(*a):\n    sys.displayhook({value})\n    {extra}\n    raise ValueError"


def _all_show(value, extra="pass"):
    names = {"a2_line": "schedule", "a2_cost": "cost", "a2_budget": "largest_last", "a2_names": "rank_of"}
    return _hand_in(**{answer: _shows(value, name, extra) for answer, name in names.items()})


def _tags(*tags):
    def change(submission):
        for cell in submission["cells"]:
            if cell["metadata"].get("nbgrader", {}).get("grade"):
                cell["metadata"]["tags"] = list(tags)

    return _hand_in(change, **dict.fromkeys(RIGHT, "pass"))


def _cell_without_source(submission):
    del submission["cells"][5]["source"]


def _odd_json(submission):
    """What JSON can hold and a notebook should not."""
    submission["metadata"] = {"x": float("nan"), "deep": json.loads("[" * 500 + "]" * 500)}
    for cell in submission["cells"]:
        cell["id"] = "the same"
        cell.setdefault("metadata", {}).setdefault("nbgrader", {}).update(points=float("inf"), schema_version=-1)
    first = submission["cells"][0]
    first["attachments"] = {"half a character: \ud800": {"image/png": "AAAA"}}
    first["source"] = "\ud800 \x1b[31m"


def _page(submission):
    """What runs on a page that shows it as it is."""
    take = "document.title='taken'"
    script, picture = f"<script>{take}</script>", f'<img src=x onerror="{take}">'
    sources = [
        script,
        picture,
        f"a `<b>` and x < y\n\n{script}",
        f"[click](javascript:{take})",
        f"$x${picture}",
        f'<svg onload="{take}"></svg>',
        f'<iframe srcdoc="<script>parent.{take}</script>">',
        f'<a href="jav&#x09;ascript:{take}">x</a>',
        f"<math><mtext><style>{picture}",
    ]
    submission["cells"] += [
        {"cell_type": "markdown", "id": f"m{number}", "metadata": {}, "source": source}
        for number, source in enumerate(sources)
    ]
    raw = {"cell_type": "raw", "id": "r", "metadata": {"raw_mimetype": "text/html"}, "source": script}
    submission["cells"].append(raw)


SHOWS = """from IPython.display import HTML, SVG, Javascript, Markdown, display
live = "<script>document.title = 'ta" + "ken'</script>"
display(HTML(live), Javascript("document.title = 'ta" + "ken'"), Markdown(live))
display(HTML("<table><tr><td onclick='x'>a cell</td></tr></table>"))
display(SVG("<svg xmlns='http://www.w3.org/2000/svg'>" + live + "</svg>"))
display({"image/png": '"><script>document.title = "taken"</script>', "text/latex": live, "text/plain": live}, raw=True)
display({"application/vnd.jupyter.widget-view+json": {"model_id": live}, "text/plain": "w"}, raw=True)
display({"text/plain": "p"}, metadata={"image/png": {"width": '1"><script>'}}, raw=True)
print(live)
"""
LEAVES = "import os\nos.path.lexists({0!r}) and os.unlink({0!r})\n"


def _makes(make):
    def write(folder):
        _hand_in()(folder)
        make(folder)

    return write


def _instead(make):
    def write(folder):
        make(folder / NAME)

    return write


def _near(*parts):
    """A link to what lies elsewhere in the course."""
    return Path("..", "..", "..", *parts)


FOLDERS = {
    # links, pipes, folders
    "link_to_another": (
        _instead(lambda path: path.symlink_to(_near("submitted", "ann", A, NAME))),
        None,
        "is a link: left out",
    ),
    "link_to_the_source": (
        _instead(lambda path: path.symlink_to(_near("source", A, NAME))),
        None,
        "is a link: left out",
    ),
    "link_to_itself": (_instead(lambda path: path.symlink_to(NAME)), None, "is a link: left out"),
    "pipe": (_instead(os.mkfifo), None, "is a pipe: left out"),
    "folder": (_instead(Path.mkdir), None, "is a folder: left out"),
    "linked_data": (
        _makes(lambda folder: (folder / "a.txt").symlink_to(_near("secret"))),
        set(),
        "a.txt is a link: left out",
    ),
    "reads_linked_data": (
        lambda folder: (
            _first("try:\n    print('READ', open('a.txt').read())\nexcept OSError as e:\n    print(e)")(folder),
            (folder / "a.txt").symlink_to(_near("secret")),
        ),
        set(),
        "a.txt is a link: left out",
    ),
    # what the code leaves in its folder
    "leaves_a_link": (
        _first(LEAVES.format(NAME) + f"os.symlink({str(_near('secret'))!r}, {NAME!r})"),
        set(),
        "os.symlink",
    ),
    "leaves_a_link_to_ann": (
        _first(LEAVES.format(NAME) + f"os.symlink({str(_near('submitted', 'ann', A, NAME))!r}, {NAME!r})"),
        set(),
        "os.symlink",
    ),
    "leaves_a_pipe": (_first(LEAVES.format(NAME) + f"os.mkfifo({NAME!r})"), set(), "os.mkfifo"),
    "leaves_a_folder": (_first(LEAVES.format(NAME) + f"os.mkdir({NAME!r})"), set(), "os.mkdir"),
    "leaves_giants": (_first("open('giant', 'wb').truncate(2**29)\nopen('full', 'wb').write(bytes(2**28))"), set(), ""),
    # Python's start
    "sitecustomize": (_hand_in(files={"sitecustomize.py": "open('/tmp/ran', 'w')", "resource.py": "x"}), set(), ""),
    "stand_ins": (
        _hand_in(files={"fractions.py": "Fraction = None", "math.py": "1/0", "nbgrader_config.py": "1/0"}),
        set(),
        "",
    ),
    # what nbgrader takes for a mark
    "shows_full_marks": (_all_show(4), EVERY, "displayhook"),
    "shows_a_negative": (_all_show(-1), EVERY, "displayhook"),
    "shows_too_much": (_all_show("10**9"), EVERY, "displayhook"),
    "hides_its_error": (
        _all_show(4, "s = get_ipython()\n    s.showtraceback = print\n    s.set_custom_exc((Exception,), print)"),
        EVERY,
        "get_ipython",
    ),
    "clears_its_error": (
        _all_show(
            4, "from IPython.display import clear_output as c\n    get_ipython().events.register('post_execute', c)"
        ),
        EVERY,
        "get_ipython",
    ),
    "shows_from_a_thread": (
        _first(
            "import sys, threading\n\n\ndef shows():\n    while True:\n        sys.displayhook(float('nan'))\n"
            "        sys.displayhook(4)\n\n\nthreading.Thread(target=shows, daemon=True).start()"
        ),
        set(),
        "imports threading.*displayhook",
    ),
    "errors_that_can_not_be_shown": (
        _hand_in(
            a2_line="class E(Exception):\n    def __str__(self):\n        raise SystemExit\n\n\n"
            + FIRST
            + "    raise E",
            a2_cost="def cost(*a):\n    raise ValueError('\\ud800')",
        ),
        {"a2_line_test", "a2_cost_test"},
        "the cell did not end as it should",
    ),
    "ends_the_cell": (_hand_in(a2_line=FIRST + "    raise SystemExit"), LINE, "SystemExit"),
    "skip_tag": (_tags("skip-execution"), EVERY, ""),
    "empty_tag": (_tags(""), EVERY, ""),
    "raises_tag": (_tags("raises-exception", "nbval-skip"), EVERY, ""),
    # the class goes on
    "odd_json": (_hand_in(_odd_json), set(), ""),
    "odd_time": (
        lambda folder: (_hand_in()(folder), (folder / "timestamp.txt").write_text("nan %s 1e999")),
        set(),
        "timestamp.txt can't be read: ",
    ),
    "too_long_in_all": (
        _hand_in(
            lambda submission: submission["cells"].extend(
                {"cell_type": "markdown", "metadata": {}, "source": "[a](b) *x* " * 1_500} for _ in range(20)
            )
        ),
        None,
        "more than 300000 characters in all",
    ),
    "cell_without_source": (_hand_in(_cell_without_source), None, "can't be read: 'source'|cell 6 has no text"),
    "nested_json": (lambda folder: (folder / NAME).write_text("[" * 200_000), None, "can't be read: "),
    "long_sum": (_first("x = " + "+".join("1" * 20_000)), LINE, "can't be parsed"),
    "many_signs": (_hand_in(a2_line="x = " + "-" * 50_000 + "1"), LINE, "can't be parsed"),
    # right answers
    "progress_bar": (_in_answer("list(tqdm(range(3)))", "from tqdm import tqdm"), set(), ""),
    "logging": (_in_answer("logging.warning('odd')", "import logging"), set(), ""),
    "warnings": (_in_answer("warnings.warn('odd')", "import warnings\nwarnings.simplefilter('always')"), set(), ""),
    "stderr": (_in_answer("print('debug', file=sys.stderr)", "import sys"), set(), ""),
    "notebook_bar": (_in_answer("list(tqdm(range(3)))", "from tqdm.auto import tqdm"), set(), ""),
    "subprocess_prints": (_in_answer("os.write(2, b'odd')", "import os"), set(), "os.write"),
    "whole_floats": (_hand_in(a2_line=RIGHT["a2_line"].replace("round(", "1.0 * round(")), set(), ""),
    "an_array": (
        _hand_in(
            a2_line="import numpy as np\n\n\n" + FIRST + "    return np.rint(np.linspace(first, last, num_layers)) "
            "if num_layers > 1 else np.array([last])"
        ),
        set(),
        "",
    ),
    "a_shadowed_builtin": (
        _first("list_, sum_ = 1, 2\nnumber = base = expected = L = rule = given = ranks = 3"),
        set(),
        "",
    ),
    "a_builtins_name": (_hand_in(a2_names="sum = 5\nall = 3\n" + RIGHT["a2_names"]), set(), "takes the name sum"),
    # loops
    "loops_in_c": (
        _hand_in(a2_line="import collections\n\n\n" + FIRST + "    collections.deque(iter(int, 1), maxlen=0)"),
        LINE,
        "a2_line_test: CellTimeoutError: stopped after",
    ),
    "takes_no_interrupt": (
        _hand_in(
            a2_line=FIRST + "    while True:\n        try:\n            while True:\n                pass\n"
            "        except BaseException:\n            pass"
        ),
        LINE,
        "a2_line_test: CellTimeoutError: stopped after",
    ),
    "loops_between": (
        _hand_in(
            lambda submission: submission["cells"].insert(
                7,
                {
                    "cell_type": "code",
                    "id": "loop",
                    "metadata": {},
                    "outputs": [],
                    "execution_count": None,
                    "source": "while True:\n    pass",
                },
            )
        ),
        set(),
        "",
    ),
    # pages
    "page": (_hand_in(_page, a2_line=SHOWS + RIGHT["a2_line"]), set(), ""),
    # odd names of folders
    "[ab]*?": (_hand_in(), set(), ""),
    "Zoë O'Brien, Jr (2)": (_hand_in(), set(), ""),
    "=1+1": (_hand_in(), set(), ""),
    "-rf": (_hand_in(), set(), ""),
    "two\nlines": (_hand_in(), None, "give it another one"),
    " spaced ": (_hand_in(), None, "give it another one"),
    # A message that a spreadsheet would compute
    "formula": (
        _hand_in(a2_line=FIRST + "    raise ValueError('; =HYPERLINK(1)\\n=1+1')"),
        LINE,
        "ValueError: , =HYPERLINK",
    ),
}


def hand_in(course, student):
    """Write a hand-in of :data:`FOLDERS` into a course."""
    folder = course / "submitted" / student / A
    folder.mkdir(parents=True, exist_ok=True)
    FOLDERS[student][0](folder)


def expected_score(student):
    """What it should get; None if it can't be graded."""
    lost = FOLDERS[student][1]
    return None if lost is None else float(sum(points(A).values()) - sum(points(A)[name] for name in lost))
