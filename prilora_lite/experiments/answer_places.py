"""Where each question stands in the picture of the answers, and what it is called there."""

from __future__ import annotations

import re
import textwrap

import pandas as pd


def places_of(rows: pd.DataFrame, again: pd.Series) -> list[int]:
    """A place for each question; one that is asked again at the best rates shares it with the first.

    Args:
        rows: the questions that are answered, as :func:`~.answers.table` gives them.
        again: whether each is asked at the best rates.
    """
    places: list[int] = []
    waiting: dict[tuple[str | bool, ...], list[int]] = {}  # places that lack the other one of the two
    for (_, row), best in zip(rows.iterrows(), again, strict=True):
        what = row["contrast"], row["tasks"], _setting(row["settings"])
        if free := waiting.get((*what, best)):
            places.append(free.pop(0))
        else:
            places.append(max(places, default=-1) + 1)
            waiting.setdefault((*what, not best), []).append(places[-1])
    return places


def labels_of(rows: pd.DataFrame) -> list[str]:
    """A numbered label for each place; where several would have the same, with the question's name."""
    first = rows.drop_duplicates("place")
    labels = [_named(row) for _, row in first.iterrows()]
    return [
        f"{place + 1}: {label}\n{name}" if labels.count(label) > 1 else f"{place + 1}: {label}"
        for place, label, name in zip(first["place"], labels, first["question"], strict=True)
    ]


def _setting(settings: str) -> str:
    """Encoder and settings of a question, without its learning rates."""
    return settings.partition(";")[0].replace(", best rates", "")


def _named(row: pd.Series) -> str:
    """A contrast and how it was run, in lines that fit beside a picture; none ends at a fraction's bar."""
    lines = textwrap.fill(row["contrast"].replace(" / ", "\u00a0/\u00a0"), 62)
    encoder, *settings = _setting(row["settings"]).split(", ")
    tasks = row["tasks"].split()
    real = not all(task.startswith("pocket-") for task in tasks)
    where = f"{encoder}{', real rows' * real}: {', '.join(task.removeprefix('pocket-') for task in tasks)}"
    settings = [re.sub(r"^epochs=(.*)", r"epochs \1", setting) for setting in settings]
    return f"{lines}\n[" + "; ".join([where, *settings, f"{row['seeds']} seeds"]) + "]"
