"""Is it the same base model? A short description of its frozen weights, kept with every adapter."""

from __future__ import annotations

import math
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prilora_lite.lora import LoRALinear
from prilora_lite.models.heads import head_parameters


def stored_parameters(model: nn.Module) -> dict[str, Tensor]:
    """What a saved adapter holds, by name: lora_A and lora_B, pooler and head."""
    head = head_parameters(model)
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.endswith((".lora_A", ".lora_B")) or name in head
    }


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """What tells one base model from another: dtype, names, shapes and three fixed rows of each frozen matrix.

    Of each row w it keeps the pair (sum of c_j w_j, sum of |w_j|) with c_j = cos j, so that a row compares across
    dtypes: rounding moves the first by no more than the dtype's precision times the second. Our choice.
    """
    stored = stored_parameters(model)
    adapted = {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}
    weights, rows = {}, {}
    for name, parameter in model.named_parameters():
        if name in stored:
            continue
        owner, _, kind = name.rpartition(".")
        layer = owner.removesuffix(".base")
        if layer in adapted:
            name = f"{layer}.{kind}"
            if kind == "weight" and adapted[layer].merged:
                parameter = adapted[layer].unmerged_weight
        weights[name] = list(parameter.shape)
        if parameter.ndim == 2:
            rows[name] = parameter
    dtypes = {str(parameter.dtype) for parameter in rows.values()}
    return {
        "dtype": sorted(dtypes),
        "shapes": weights,
        "rows": {name: _row_sums(matrix) for name, matrix in rows.items()},
    }


def _row_sums(matrix: Tensor) -> list[tuple[float, float]]:
    n = matrix.shape[0]
    rows = matrix.detach()[[0, n // 2, n - 1]].cpu().double()
    signs = torch.arange(rows.shape[1], dtype=torch.float64).cos()
    return list(zip((rows @ signs).tolist(), rows.abs().sum(1).tolist(), strict=True))


def check_base(saved: dict[str, Any], here: dict[str, Any], path: Path) -> None:
    """Raise ValueError if the :func:`fingerprint` in a file is not that of the model here."""
    for name in sorted(saved["shapes"].keys() | here["shapes"].keys()):
        there, now = saved["shapes"].get(name), here["shapes"].get(name)
        if there != now:
            raise ValueError(
                f"{path} was trained on another base model: "
                f"{name} is {there or 'missing'} there, {now or 'missing'} here"
            )
    if saved["rows"].keys() != here["rows"].keys():
        raise ValueError(f"{path} has metadata that can't be used: the base model's description is incomplete")
    # bfloat16 rounds by up to 2^-9, float16 by less; within one dtype only the order of the sums differs
    tolerance = 1e-9 if saved["dtype"] == here["dtype"] else 2**-8
    for name, rows in saved["rows"].items():
        # pad with NaN: a missing row never matches
        for (projected, size), (projected_here, _) in zip_longest(rows, here["rows"][name], fillvalue=(math.nan, 0)):
            if not math.isclose(projected, projected_here, rel_tol=0, abs_tol=tolerance * size):
                raise ValueError(
                    f"{path} was trained on another base model: the shapes agree, but the values of {name} do not; "
                    "load the very weights that it was trained on"
                )
