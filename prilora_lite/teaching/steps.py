"""Steps that nbgrader takes with each notebook, beside its own: the course's ``nbgrader_config.py`` names them."""

from __future__ import annotations

import re
from html import escape
from typing import Any

import bleach
from nbconvert.filters import markdown2html
from nbconvert.preprocessors.sanitize import SanitizeHTML
from nbgrader import utils
from nbgrader.preprocessors import NbGraderPreprocessor

from prilora_lite.teaching.handin import is_base64

TAGS = bleach.ALLOWED_TAGS | {
    "p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "div", "span", "table", "thead", "tbody",
    "tfoot", "tr", "th", "td", "caption", "img", "del", "s", "sub", "sup", "dl", "dt", "dd", "details",
    "summary", "kbd", "mark", "small", "u",
}  # fmt: skip
ATTRIBUTES = {
    "a": ["href", "title"], "img": ["src", "alt", "title", "width", "height"], "th": ["colspan", "rowspan", "scope"],
    "td": ["colspan", "rowspan"], "code": ["class"], "span": ["class"], "div": ["class"], "ol": ["start"],
    "abbr": ["title"], "acronym": ["title"],
}  # fmt: skip
LONGEST_HTML, LONGEST_HTML_OF_ALL = 100_000, 300_000  # characters; what is longer is shown as text
INLINE = re.compile(r"<(?:a|abbr|b|code|em|i|s|small|strong|u)\b", re.I)
LONGEST_MARKDOWN, MOST_TAGS = 20_000, 6_000
MOST_INLINE = 300  # such tags, each of which a parser may have to repeat for all that follows


def harmless(html: str) -> str:
    """HTML without anything that runs, sends, or looks like the page around it."""
    if len(html) > LONGEST_HTML or html.count("<") > MOST_TAGS or len(INLINE.findall(html)) > MOST_INLINE:
        return f"<pre>{escape(html[:LONGEST_HTML])}</pre>"
    text = re.sub(r"<style\b[^>]{0,100}>[^<]{0,5000}</style>", "", html)  # pandas writes one before each table
    return bleach.clean(text, TAGS, _allowed, protocols={"http", "https", "mailto"}, strip=True)


def _allowed(tag: str, name: str, value: str) -> bool:
    if tag == "img" and name == "src":  # nothing is fetched: that would tell who reads the page, and when
        return value.startswith(("data:image/png;base64,", "data:image/jpeg;base64,"))
    return name in ATTRIBUTES.get(tag, ())


def harmless_markdown(source: str) -> str:
    """Markdown as HTML for a page; in place of nbconvert's own filter, which lets scripts through."""
    return harmless(markdown2html(source) if len(source) <= LONGEST_MARKDOWN else escape(source))


class DropEmptyMarks(NbGraderPreprocessor):
    """DeduplicateIds empties the mark of a cell that is there twice; the next steps stumble over that."""

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        """Drop an empty mark."""
        if cell.metadata.get("nbgrader") == {}:
            del cell.metadata["nbgrader"]
        return cell, resources


class JudgeTests(NbGraderPreprocessor):
    """Puts a test's outputs so that nbgrader judges them rightly: it takes the first that says something.

    An error counts before any value; of several values the last, which is the test's own, if it is a number of
    points that the test has to give; what goes to standard error (progress bars, warnings, logging) is no error.
    """

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        """Sort the outputs of a test."""
        if cell.cell_type != "code" or not utils.is_grade(cell) or utils.is_solution(cell):
            return cell, resources
        values = [output for output in cell.outputs if output.output_type == "execute_result"]
        for output in values:
            if output is not values[-1] or not _is_credit(output, cell.metadata.nbgrader["points"]):
                output.output_type = "display_data"
                output.pop("execution_count", None)
        for output in cell.outputs:
            if output.output_type == "stream":
                output.name = "stdout"
        cell.outputs.sort(key=lambda output: output.output_type != "error")
        return cell, resources


def _is_credit(output: Any, points: float) -> bool:
    try:
        return 0 <= float(output["data"]["text/plain"]) <= points
    except (KeyError, ValueError):
        return False


class Harmless(SanitizeHTML):
    """Leaves of a learner's outputs what can do no harm on the teacher's screen: text, tables, pictures."""

    enabled = True
    room = LONGEST_HTML_OF_ALL

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Clean a notebook; what its HTML has beyond a limit is shown as text."""
        self.room = LONGEST_HTML_OF_ALL
        return super().preprocess(nb, resources)

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        """Clean the outputs of a cell."""
        for output in cell.get("outputs", []):
            if "data" in output:
                output["metadata"] = {}
                output.data = {kind: data for kind, data in output.data.items() if self._fits(kind, data)}
        if cell.cell_type == "code":
            cell.outputs = self.sanitize_code_outputs(cell.outputs)
        return cell, resources

    def sanitize_html_tags(self, html_str: str) -> str:
        """As on the whole page."""
        self.room -= len(html_str)
        return harmless(html_str) if self.room >= 0 else f"<pre>{escape(html_str)}</pre>"

    @staticmethod
    def _fits(kind: str, data: Any) -> bool:
        if kind in ("image/png", "image/jpeg"):
            return is_base64(data)
        return isinstance(data, str) and (kind == "text/plain" or len(data) <= LONGEST_HTML)
