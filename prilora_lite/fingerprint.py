"""Is it the same base model? A short description of its frozen weights, kept with every adapter."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prilora_lite.lora import LoRALinear
from prilora_lite.models.heads import head_parameters, is_of_ones_own
from prilora_lite.models.layers import COMPILED
from prilora_lite.shared.errors import in_python

_AT_A_TIME = 4096  # rows of a matrix, which are widened to float64
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # buffers of a batch norm
# Fields of a model's configuration, whatever a family calls them: heads, epsilons, activations, positions, scales
SETTINGS = re.compile(
    r"(^|_)heads?$|_eps(ilon)?$|(^|_)act(ivation)?(_fn|_function)?$|(^|\.)rope_|position_embedding_type$"
    r"|pos_att_type|position_buckets$|max_relative_positions$|sliding_window$|local_attention$|classifier_pooling$"
    r"|(^|_)(re)?scal(e|ing)|_scalar$|_multiplier$|softcapping$|layer_types$|(^|\.)(alibi|is_decoder|clamp_len)$"
    r"|attn_type$|attention_type$|summary_type$|token_dropout$|pad_token_id$|causal|bidirectional|(^|[._])rotary|no_rope"
    r"|parallel_(residual|attn)|max_distance$|layer_?norm_before$|post_layernorm$|(^|_)pre_?norm|norm_first$"
    r"|strides?$|stable_layer_norm$|attention_window$|pooling_type$|pool_q_only$|separate_cls$|num_random_blocks$"
)
ADDED = (
    ". If words were added after loading (resize_token_embeddings), their rows are drawn at random each time: save the "
    "enlarged base once, model.save_pretrained(folder), before adapting, and load that everywhere"
)


def stored_parameters(model: nn.Module) -> dict[str, Tensor]:
    """What a saved adapter holds, by name: lora_A and lora_B, pooler and head, and :func:`running_statistics`."""
    head = head_parameters(model)
    trained = {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.endswith((".lora_A", ".lora_B")) or name in head
    }
    return trained | running_statistics(model)


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """What batch norms, or norms of one's own, keep of their inputs: passes in training mode move it, frozen or not."""
    saved = model.state_dict().keys() if is_of_ones_own(model) else ()  # what else its training may move
    return {
        name: buffer
        for name, buffer in model.named_buffers()
        if name.rpartition(".")[2] in STATISTICS or (name in saved and buffer.is_floating_point())
    }


def fingerprint(model: nn.Module, frozen: Collection[str] = ()) -> dict[str, Any]:
    """What tells one base model from another.

    Its dtype; names and shapes of its frozen weights; three fixed rows of each matrix, and the sum of all its rows i,
    each times cos(i + 1/2); all other weights (biases, norms, kernels) as one row; and those settings that change what
    the same weights compute, such as the number of heads. For each row w it keeps the pair (sum of c_j w_j, sum of
    |w_j|) with c_j = cos j, so that rows compare across dtypes: rounding moves the first by no more than the dtype's
    precision times the second. Our choice.

    Args:
        model: adapted or not.
        frozen: names that are of the base, even where they are of a head.
    """
    stored = stored_parameters(model)
    adapted = {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}
    weights, rows, whole, others, dtypes = {}, {}, {}, {}, set()
    for name, parameter in model.named_parameters():
        if name in stored and name not in frozen:
            continue
        layer, _, kind = name.rpartition(".base.")
        if layer in adapted:
            name = f"{layer}.{kind}"
            if kind == "weight" and adapted[layer].merged:
                parameter = adapted[layer].unmerged_weight
        weights[name] = list(parameter.shape)
        if parameter.ndim == 2:
            n = len(parameter)
            rows[name] = _row_sums(parameter[[0, n // 2, n - 1]])
            whole[name] = [_sum_of_rows(parameter)]
            dtypes.add(str(parameter.dtype))
        else:
            others[name] = _row_sums(parameter.reshape(1, -1))
    settings = _settings(getattr(model, "config", None))
    sums = {"rows": rows, "whole": whole, "others": others}
    return {"dtype": sorted(dtypes), "shapes": weights, **sums, "settings": settings}


def _row_sums(rows: Tensor) -> list[tuple[float, float]]:
    rows = rows.detach().cpu().double()
    signs = torch.arange(rows.shape[1], dtype=torch.float64, device="cpu").cos()
    return list(zip((rows @ signs).tolist(), rows.abs().sum(1).tolist(), strict=True))


def _sum_of_rows(matrix: Tensor) -> tuple[float, float]:
    """The same pair for a whole matrix: its rows' sums, each times cos(i + 1/2) in the first. A few rows at a time."""
    projected = size = 0.0
    for start in range(0, len(matrix), _AT_A_TIME):
        sums = torch.tensor(_row_sums(matrix[start : start + _AT_A_TIME]), dtype=torch.float64, device="cpu")
        places = torch.arange(start, start + len(sums), dtype=torch.float64, device="cpu")
        projected += (sums[:, 0] @ (places + 0.5).cos()).item()
        size += sums[:, 1].sum().item()
    return projected, size


def _settings(config: Any) -> dict[str, int | float | str | None]:
    """Numbers of heads, activations, kinds of positions and the like, whatever a family calls them."""
    fields = _flat(config.to_dict()) if hasattr(config, "to_dict") else {}
    return {
        name: value
        for name, value in sorted(fields.items())
        if isinstance(value, (int, float, str, type(None))) and SETTINGS.search(name)
        if not (value is None and name.endswith("pad_token_id"))  # often set after loading
    }


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """What a dictionary holds; what lies in a dictionary in it is called ``rope_parameters.factor`` and the like."""
    if isinstance(value, (list, tuple)):
        return {name: ", ".join(map(str, value))}
    if not isinstance(value, dict):
        return {name: value}
    flat = [_flat(inner, f"{name}.{key}" if name else str(key)) for key, inner in value.items()]
    return {name: inner for part in flat for name, inner in part.items()}


def uncompiled(named: dict[str, Any]) -> dict[str, Any]:
    """The same by the names of a model that is not compiled: earlier versions wrote those of ``torch.compile``."""
    return {name.removeprefix(COMPILED): value for name, value in named.items()}


def read_fingerprint(stored: dict[str, Any]) -> dict[str, Any]:
    """A :func:`fingerprint` as JSON has it, checked for its form; older ones lack biases, settings or sums of all rows.

    Raises:
        AttributeError, KeyError, OverflowError, TypeError, ValueError: it has another form.
    """

    def pairs(rows_of: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
        return {name: [(float(c), float(size)) for c, size in rows] for name, rows in uncompiled(rows_of).items()}

    return {
        "rows": pairs(stored["rows"]),
        "dtype": stored["dtype"],
        "shapes": uncompiled(dict(stored["shapes"])),
        "whole": pairs(stored["whole"]) if "whole" in stored else None,
        "others": pairs(stored["others"]) if "others" in stored else None,
        "settings": dict(stored.get("settings", {})),
    }


def _part_that_fits(saved: set[str], here: set[str]) -> str | None:
    """The part of the model here, by its name, in which all names in a file have a place; None if there is none."""
    some = min(saved)
    parts = [name.removesuffix(f".{some}") for name in here if name.endswith(f".{some}")]
    return next((part for part in sorted(parts) if {f"{part}.{name}" for name in saved} <= here), None)


def check_base(saved: dict[str, Any], here: dict[str, Any], path: Path) -> None:
    """Raise ValueError if the :func:`fingerprint` in a file is not that of the model here."""
    if saved["shapes"] and (part := _part_that_fits(saved["shapes"].keys(), here["shapes"].keys())):
        raise ValueError(f"{path} is the adapter of a part of this model: give {in_python(part)} in its place")
    for name in sorted(saved["shapes"].keys() | here["shapes"].keys()):
        there, now = saved["shapes"].get(name), here["shapes"].get(name)
        if there != now:
            longer = there and now and len(there) == 2 and there[1:] == now[1:]  # both have it, with other rows
            raise ValueError(
                f"{path} was trained on another base model: "
                f"{name} is {there or 'missing'} there, {now or 'missing'} here{ADDED if longer else ''}"
            )
    for name, there in saved["settings"].items():
        if here["settings"].get(name, there) != there:  # a version of transformers may have another name for it
            raise ValueError(
                f"{path} was trained on another base model: {name} is {there!r} there, {here['settings'][name]!r} here"
            )
    for kind in ("rows", "whole", "others"):
        if saved[kind] is not None and saved[kind].keys() != here[kind].keys():
            raise ValueError(f"{path} has metadata that can't be used: the base model's description is incomplete")
    # bfloat16 rounds by up to 2^-9, float16 by less; within one dtype only the order of the sums differs
    tolerance = 1e-9 if saved["dtype"] == here["dtype"] else 2**-8
    kinds = [kind for kind in ("rows", "whole", "others") if saved[kind] is not None]
    for name, rows, ours in [(name, rows, here[kind][name]) for kind in kinds for name, rows in saved[kind].items()]:
        equal = [
            math.isclose(projected, projected_here, rel_tol=0, abs_tol=tolerance * size)
            # pad with NaN: a missing row never matches
            for (projected, size), (projected_here, _) in zip_longest(rows, ours, fillvalue=(math.nan, 0))
        ]
        if not all(equal):
            raise ValueError(
                f"{path} was trained on another base model: the shapes agree, but the values of {name} do not; "
                f"load the very weights that it was trained on{ADDED if equal == [True, True, False] else ''}"
            )
