"""What nbgrader is told of a test's outputs, and what of a learner's reaches a page."""

import re

import nbformat
import pytest

nbgrader = pytest.importorskip("nbgrader", reason="needs nbgrader: pip install '.[classroom]'")
from nbgrader.utils import determine_grade  # noqa: E402

from prilora_lite.teaching.steps import Harmless, JudgeTests, harmless, harmless_markdown  # noqa: E402

V4 = nbformat.v4
ERROR = V4.new_output("error", ename="AssertionError", evalue="", traceback=[])
BAR = V4.new_output("stream", name="stderr", text="100 %")
MARK = {"grade": True, "grade_id": "t", "solution": False, "locked": True, "points": 4, "schema_version": 3}


def value(text):
    return V4.new_output("execute_result", data={"text/plain": text})


@pytest.mark.parametrize(
    ("outputs", "points"),
    [
        ([], 4), ([BAR], 4), ([value("3")], 3), ([value("4"), value("1")], 1), ([value("4"), ERROR], 0),
        ([BAR, value("4"), BAR, ERROR], 0), ([value("-1"), ERROR], 0), ([BAR, value("2")], 2),
        ([value("5")], 4), ([value("nan")], 4), ([value("-3")], 4), ([value("5"), ERROR], 0),
    ],
)  # fmt: skip
def test_points_follow_the_error_then_the_last_value(outputs, points):
    cell = V4.new_code_cell(
        "", outputs=[nbformat.from_dict(dict(output)) for output in outputs], metadata={"nbgrader": MARK}
    )
    cell, _ = JudgeTests().preprocess_cell(cell, {}, 0)
    assert determine_grade(cell)[0] == points


@pytest.mark.parametrize(
    "html",
    [
        "<script>x</script>", "<img src=x onerror=x>", "<a href='javascript:x'>y</a>",
        "<a href=' java\tscript:x'>y</a>",
        "<svg><script>x</script></svg>", "<iframe src='//x'></iframe>", "<form action='//x'><button>y</button></form>",
        "<style>@import '//x'</style>", "<img src='//x/y.png'>", "<div style='background:url(//x)'>y</div>",
        "<meta http-equiv=refresh content='0;url=//x'>", "<math><mtext><table><mglyph><style><img src onerror=x>",
        "<noscript><p title='</noscript><img src=x onerror=x>'>", "<base href='//x'>",
        "<link rel=stylesheet href='//x'>",
    ],
)  # fmt: skip
@pytest.mark.parametrize("show", [harmless, harmless_markdown])
def test_nothing_that_runs_or_fetches_is_left(html, show):
    page = show(html).lower()
    live = ("<script", "<img src='//", '<img src="//', "<svg", "<iframe", "<form", "<style", "<meta", "<base", "<link")
    assert not [tag for tag in live if tag in page]
    assert not re.search(r"<[^>]*(\son\w+=|script:)", page)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("a < b and `x < y`", "<code>x &lt; y</code>"), ("**bold**", "<strong>bold</strong>"),
        ("> said", "<blockquote>"),
        ("| a |\n|---|\n| 1 |", "<td>1</td>"),
        ("<details><summary>Hint</summary>x</details>", "<summary>Hint</summary>"),
        ("[site](https://example.org)", 'href="https://example.org"'), ("$a_1 < b$", "$a_1 &lt; b$"),
    ],
)  # fmt: skip
def test_plain_markdown_stays_what_it_is(source, shown):
    assert shown in harmless_markdown(source)


@pytest.mark.parametrize(
    "bomb", ["<b><p>" * 16_000, "<div>" * 18_000, "<table>" * 14_000, "<style" * 16_000, "x" * 10**6]
)
def test_html_made_to_take_for_ever_is_shown_as_text_or_cleaned(bomb):
    assert "<p><b><p>" not in harmless(bomb)
    assert len(harmless_markdown(bomb)) < 2 * 10**6 + 100_000 * 10


def test_html_beyond_what_a_notebook_may_have_is_shown_as_text():
    """Each output is short enough; together they would take a parser minutes."""
    outputs = [V4.new_output("display_data", data={"text/html": "<b>bold</b>" + "x" * 15_000}) for _ in range(40)]
    notebook = V4.new_notebook(
        cells=[V4.new_code_cell("", outputs=outputs[:20]), V4.new_code_cell("", outputs=outputs[20:])]
    )
    for _ in range(2):  # the next notebook has as much room
        cleaned, _ = Harmless().preprocess(nbformat.from_dict(dict(notebook)), {})
        pages = [output.data["text/html"] for cell in cleaned.cells for output in cell.outputs]
        assert pages[0].startswith("<b>bold</b>")
        assert pages[-1].startswith("<pre>&lt;b&gt;bold")
        notebook = V4.new_notebook(cells=[V4.new_code_cell("", outputs=outputs)])
