"""A word of the field is explained where it first appears: the notebooks are read in order."""

import re

import pytest

from tests.notebooks.test_form import PATHS, cells

ASIDE = (
    "# ",
    "## Words",
    "## Symbols",
    "## The series",
    "## What you will be able to do",
    "**You need**",
    "**References**",
)


def words():
    """(word, number of the notebook that explains it) of the glossary in the first notebook."""
    (glossary,) = [cell.source for cell in cells(PATHS[0], "markdown") if cell.source.startswith("## Words")]
    return re.findall(r"^\| ([^|]+?) \| [^|]+ \| (\d\d) \|$", glossary, re.M)


def mention(word):
    """A pattern of a word in a text, also in the plural and at the start of a sentence."""
    return re.compile(rf"(?<![\w-]){re.escape(word)}(s|es)?(?![\w-])", re.I)


def first_cell(word, pages):
    """The first text that mentions a word, with the number of its page."""
    for number, texts in pages:
        for text in texts:
            if not text.startswith(ASIDE) and mention(word).search(text):
                return number, text
    return None, ""


def explains(text, word):
    """Whether a text sets the word in bold, as one that explains it does."""
    return any(mention(word).search(bold) for bold in re.findall(r"\*\*(.+?)\*\*", text, re.S))


def series():
    """The texts of each notebook, by its number, without the lines that rate an exercise."""
    texts = {path.stem[:2]: [cell.source for cell in cells(path, "markdown")] for path in PATHS}
    return [(page, [re.sub(r"\*Difficulty.*?\*", "", text) for text in texts[page]]) for page in texts]


@pytest.mark.parametrize(("word", "page"), words(), ids=[word for word, _ in words()])
def test_a_word_is_explained_where_it_first_appears(word, page):
    number, text = first_cell(word, series())
    assert number == page, text
    assert explains(text, word), text


def test_the_words_that_stopped_readers_are_listed():
    listed = {word for word, _ in words()}
    assert listed >= {
        "adapter", "encoder", "frozen", "head", "fine-tuning", "Matthews correlation", "seed", "the paper", "GLUE",
        "AdaLoRA", "DeBERTaV3-base", "churn", "pooler", "query", "BitFit", "Holm's correction", "decay", "regrow",
        "p value", "prune", "importance", "mask", "padding", "mass", "control", "ablation", "MiniLM",
    }  # fmt: skip


def test_a_word_before_its_explanation_is_found():
    pages = [("00", ["# 00 Title with churn"]), ("01", ["The churn is low.", "**Churn** is the share of new zeros."])]
    number, text = first_cell("churn", pages)
    assert (number, explains(text, "churn")) == ("01", False)
    assert first_cell("churning", pages) == (None, "")
