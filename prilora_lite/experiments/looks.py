"""How a method looks in every figure: the colour says which idea it is, the marker which method of that colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Look:
    """Colour and marker of a method."""

    colour: str
    marker: str


# Chosen so that any two of them are told apart with normal vision, with protanopia and with deuteranopia, and so that
# no two become the same grey in print. A test measures that.
BLUE, GREEN, PURPLE, VERMILION = "#0A52B3", "#43C072", "#6C2664", "#B94505"
GREY, BLACK, SKY, BROWN, GOLD = "#7F7F7F", "#000000", "#14A0D0", "#4C2604", "#EEB937"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, GOLD, SKY, BLACK, BROWN, GREY)
MARKERS = "o^sD<>vPXph*dH8"

INK = "0.2"  # lines and letters of what is drawn by hand
FROZEN = "0.82"  # weights that are not trained: lighter than any method
UNKNOWN = "0.35"  # a method that is neither in the table nor a configuration

LOOKS = {
    # neither idea, the first alone, the second alone, both
    "lora": Look(BLUE, "o"),
    "ranks": Look(GREEN, "^"),
    "pruning": Look(PURPLE, "s"),
    "prilora": Look(VERMILION, "D"),
    # what they are compared with
    "head": Look(GREY, "p"),
    "full": Look(BLACK, "*"),
    "bitfit": Look(SKY, "X"),
    "houlsby": Look(BROWN, "<"),
    "pfeiffer": Look(BROWN, ">"),
    "adalora": Look(GOLD, "v"),
    # one knob turned far: in the colour of what it is turned on
    "lora_r1": Look(BLUE, "v"),
    "lora_r1_same_s": Look(BLUE, "h"),
    "lora_bottom": Look(BLUE, "<"),
    "lora_top": Look(BLUE, ">"),
    "pruning_95": Look(PURPLE, "P"),
    "random_75": Look(PURPLE, "X"),
    "ranks_sqrt": Look(GREEN, ">"),
    "ranks_mean": Look(GREEN, "<"),
    "prilora_sqrt": Look(VERMILION, "d"),
    "prilora_mean": Look(VERMILION, "H"),
}


def looks_of(runs: pd.DataFrame) -> dict[str, Look]:
    """A look for each method in some runs: its own, or the colour of its ideas with a marker that is still free.

    Args:
        runs: one row per run, as :func:`~.reporting.to_dataframe` gives them.
    """
    first = runs.drop_duplicates("method").set_index("method")
    looks = {method: LOOKS[method] for method in first.index if method in LOOKS}
    for method in first.index.difference(LOOKS, sort=False):
        taken = {look.marker for look in looks.values()}
        marker = next((marker for marker in MARKERS if marker not in taken), MARKERS[0])
        ranks, ratio = first.loc[method, ["first_rank", "last_rank"]], first.loc[method, "ratio"]
        if ranks.isna().any() and "ranks" in first:  # listed, one for each layer
            ranks = str(first.loc[method, "ranks"]).split()
        configured = pd.notna(ratio)
        looks[method] = Look(LOOKS[_idea(ranks, ratio)].colour if configured else UNKNOWN, marker)
    return looks


def schedule_colour(ranks: Sequence[int]) -> str:
    """LoRA's colour where all layers have one rank, that of ``ranks`` where they differ."""
    return LOOKS[_idea(ranks, 0.0)].colour


def _idea(ranks: Sequence[float], ratio: float) -> str:
    """Which of the four methods it is: neither idea, each alone, both."""
    if len(set(ranks)) > 1:
        return "prilora" if ratio else "ranks"
    return "pruning" if ratio else "lora"
