import datasets
import pytest
from transformers.utils import logging

from prilora_lite.experiments.bars import no_bars

SHOWN = {
    "transformers": logging.is_progress_bar_enabled,
    "datasets": lambda: not datasets.are_progress_bars_disabled(),
}


@pytest.mark.parametrize("library", SHOWN)
def test_bars_are_hidden_for_a_while_and_are_then_as_they_were(library):
    shown, other = SHOWN[library], next(SHOWN[name] for name in SHOWN if name != library)
    assert shown()
    with no_bars(library):
        assert (shown(), other()) == (False, True)
        with no_bars(library):
            pass
        assert not shown()
    assert shown()
