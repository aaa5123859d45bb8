"""The libraries' own progress bars, which would flicker beside ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import datasets
from transformers.utils import logging


@contextlib.contextmanager
def no_bars(library: str) -> Iterator[None]:
    """Without the bars that ``transformers`` draws for the files it reads and writes, or ``datasets`` for each map."""
    if library == "datasets":
        shown = not datasets.are_progress_bars_disabled()
        hide, show = datasets.disable_progress_bars, datasets.enable_progress_bars
    else:
        shown = logging.is_progress_bar_enabled()
        hide, show = logging.disable_progress_bar, logging.enable_progress_bar
    hide()
    try:
        yield
    finally:
        if shown:
            show()
