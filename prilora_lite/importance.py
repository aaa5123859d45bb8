"""What pruning rests on: accumulated input norms, the importance of each entry of A, and the mask of what survives."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import Tensor

from prilora_lite.shared.checks import is_number
from prilora_lite.shared.errors import unknown

PRUNING_SCOPES = ("row", "matrix")


class InputNorms:
    r"""Running mean square of each input feature of one layer.

    .. math:: q_j = \frac{1}{T}\sum_t x_{tj}^2, \qquad s_j \leftarrow \beta s_j + (1-\beta)\,q_j

    The sum runs over the T real tokens (no padding) of the whole global batch of one optimizer step: the micro-batches
    of gradient accumulation count by their tokens, and a forward pass that is run twice (gradient checkpointing) adds
    twice to both sum and count. The first fold sets s = q. Squares are summed in float32, or in float64 where the input
    is float64.

    Args:
        in_features: n, the number of input features.
        device: where the statistics live.

    Source: norm of the input as in Wanda (Sun et al. 2023); the moving average per step is our choice.
    """

    def __init__(self, in_features: int, device: torch.device | str = "cpu") -> None:
        self.squares = torch.zeros(in_features, dtype=torch.float32, device=device)  # over tokens since the last fold
        self.tokens = torch.zeros((), dtype=torch.float32, device=device)
        self.mean_square: Tensor | None = None  # s, once folded

    def add(self, x: Tensor, real: Tensor | None = None) -> None:
        """Count one input x (..., n); ``real``, as in :func:`sum_of_squares`. ValueError if one has another form."""
        if not torch.compiler.is_compiling():
            _check(x, real, len(self.squares))
        squares = sum_of_squares(x, real)
        self.take_type_of(squares)
        self.squares.add_(squares)  # in place, like the buffers of batch norm: one graph when compiled
        self.tokens.add_(number_of_tokens(x, real))

    def take_type_of(self, squares: Tensor) -> None:
        """Go to the device, and the precision, in which sums of squares come."""
        if (self.squares.dtype, self.squares.device) != (squares.dtype, squares.device):
            self.squares, self.tokens = self.squares.to(squares), self.tokens.to(squares.device)

    @torch.no_grad()
    def fold(self, decay: float) -> None:
        """Fold what was counted since the last time into the moving average; count anew. ValueError if nothing was.

        The pruner folds all layers together, to the same bits: ``_fold`` in ``models/listener.py``.
        """
        if not self.tokens:
            raise ValueError("no token was counted since the last fold: call add(x) first")
        q = self.squares / self.tokens
        self.mean_square = q if self.mean_square is None else decay * self.mean_square + (1 - decay) * q
        self.squares.zero_()
        self.tokens.zero_()


def _check(x: Tensor, real: Tensor | None, in_features: int) -> None:
    if x.shape[-1] != in_features:
        raise ValueError(f"expected an input of {in_features} features, got one of shape {tuple(x.shape)}")
    if real is None:
        return
    tokens = x[..., 0].numel()
    if real.ndim != 1 or len(real) != (tokens if real.dtype == torch.bool else len(real.unique())):
        raise ValueError(
            f"expected a truth value for each of {tokens} tokens in one row, or the places of the real ones, got "
            f"{real.dtype} of shape {tuple(real.shape)}: of a tokenizer's mask take attention_mask.flatten().bool()"
        )


@torch.no_grad()
def sum_of_squares(x: Tensor, real: Tensor | None = None) -> Tensor:
    r""":math:`\sum_t x_{tj}^2` over the real tokens of an input, (n,), in float32 or wider.

    Real tokens are selected, not multiplied by a mask: 0 times the NaN of a padded place would be NaN.

    Args:
        x: the input, (..., n).
        real: the places of the real ones among its tokens; or for each token whether it is real; None if all are.
    """
    x = counted = x.reshape(-1, x.shape[-1])
    if real is not None:
        counted = torch.where(real[:, None], x, 0) if real.dtype == torch.bool else x.index_select(0, real)
    dtype = torch.promote_types(x.dtype, torch.float32)
    if x.device.type != "cpu" and not torch.compiler.is_compiling():
        return torch.linalg.vector_norm(counted, dim=0, dtype=dtype).square()  # one reading, and no copy in float32
    counted = counted.to(dtype)
    return (counted.square() if counted is x else counted.square_()).sum(0)  # a copy is squared in place


def number_of_tokens(x: Tensor, real: Tensor | None = None) -> int | Tensor:
    """T, the number of real tokens of an input; a tensor on its device where ``real`` holds truth values."""
    if real is not None and real.dtype == torch.bool:
        return real.sum(dtype=torch.float32)
    return x[..., 0].numel() if real is None else len(real)


def magnitude_input(lora_A: Tensor, mean_square: Tensor) -> Tensor:
    r""":math:`S_{ij} = |A_{ij}|\,\sqrt{s_j}`, our reading of PRILoRA (Benedek & Wolf 2024); the product is Wanda's."""
    return lora_A.abs() * mean_square.to(lora_A.device).sqrt()  # an A in half precision could not hold s


def magnitude(lora_A: Tensor) -> Tensor:
    r""":math:`S_{ij} = |A_{ij}|`, magnitude pruning, for comparison."""
    return lora_A.abs()


def random(lora_A: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform noise in [0, 1), a control. It is drawn on the CPU, so that every device draws the same."""
    return torch.rand(lora_A.shape, generator=generator, device="cpu", dtype=torch.float32).to(lora_A)


# The rules that a configuration can name. A rule is a function of any of these, by their names:
#   lora_A       A, (r, n)
#   mean_square  s, (n,), the accumulated mean square of the layer's input
#   gradient     of A, (r, n), in the latest optimizer step
#   generator    a torch.Generator on the CPU, seeded alike before each prune: it draws the same every time
# All else needs a default. It returns S, (r, n): of two entries the one with the smaller score is pruned first.
IMPORTANCE_RULES: dict[str, Callable[..., Tensor]] = {
    "magnitude_input": magnitude_input, "magnitude": magnitude, "random": random,
}  # fmt: skip
INPUTS = ("lora_A", "mean_square", "gradient", "generator")


def importance_rule(rule: str | Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function that a rule's name stands for, or a function of your own, as it is, once its parameters are checked.

    Raises:
        ValueError: an unknown name, or a function with other parameters than a rule's, or with none that can be told.
    """
    if isinstance(rule, str) or not callable(rule):
        if rule not in list(IMPORTANCE_RULES):  # a list, since not all that may be given has a hash
            raise unknown("importance rule", rule, IMPORTANCE_RULES)
        rule = IMPORTANCE_RULES[rule]
    try:
        parameters = inspect.signature(rule).parameters.values()
    except (TypeError, ValueError):
        parameters = []
    if foreign := [p.name for p in parameters if p.name not in INPUTS and p.default is p.empty and str(p)[0] != "*"]:
        raise ValueError(
            f"an importance rule is a function of any of {', '.join(INPUTS)}; {getattr(rule, '__name__', rule)} also "
            f"asks for {', '.join(foreign)}, and is given nothing else. To a constant give a default, or wrap the "
            "rule, as lambda lora_A: rule(lora_A, ...)"
        )
    if not any(p.name in INPUTS for p in parameters):
        raise ValueError(f"{rule!r:.60} names none of {', '.join(INPUTS)}: wrap it, as lambda lora_A: rule(lora_A)")
    if by_place := [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]:
        raise ValueError(f"an importance rule is called by name: leave out the / behind {', '.join(by_place)}")
    return rule


def inputs_of(rule: str | Callable[..., Tensor]) -> list[str]:
    """Those of :data:`INPUTS` that an importance rule is a function of."""
    return [name for name in inspect.signature(importance_rule(rule)).parameters if name in INPUTS]


def importance(
    lora_A: Tensor,
    mean_square: Tensor | None = None,
    rule: str | Callable[..., Tensor] = "magnitude_input",
    generator: torch.Generator | None = None,
    gradient: Tensor | None = None,
) -> Tensor:
    r"""How much each entry of A matters.

    .. math:: S_{ij} = |A_{ij}|\,\sqrt{s_j}

    Args:
        lora_A: A, (r, n).
        mean_square: s, (n,), the accumulated mean square of the layer's input, not below 0.
        rule: ``magnitude_input`` as above, ``magnitude`` for :math:`|A_{ij}|`, ``random`` for uniform noise; another
            name in :data:`IMPORTANCE_RULES`, or a function of your own.
        generator: source of the noise, on the CPU. None: torch's own.
        gradient: gradient of A, (r, n), for a rule that asks for it.

    Returns:
        S, (r, n).

    Raises:
        ValueError: an unknown rule, a rule whose input is missing, or an s or scores of another shape.

    Source: PRILoRA (Benedek & Wolf 2024) combines magnitude and accumulated input; this product as in Wanda.
    """
    given = {"lora_A": lora_A.detach(), "mean_square": mean_square, "gradient": gradient, "generator": generator}
    function, asked = importance_rule(rule), inputs_of(rule)
    for name in asked:
        if given[name] is None and name != "generator":
            raise ValueError(f"the importance rule {rule!r} needs {name}, but none was given")
    if "mean_square" in asked and (mean_square.shape != lora_A.shape[1:] or not (mean_square >= 0).all()):
        raise ValueError(f"mean_square must be {lora_A.shape[-1]} numbers of at least 0, got {mean_square!r:.90}")
    # It gets copies, since it may write into them
    scores = function(**{name: given[name] if name == "generator" else given[name].clone() for name in asked})
    if not isinstance(scores, Tensor) or scores.shape != lora_A.shape or scores.is_complex() or scores.is_sparse:
        got = f"{tuple(scores.shape)}, {scores.layout}, {scores.dtype}" if isinstance(scores, Tensor) else repr(scores)
        raise ValueError(f"an importance rule gives a real score for each entry of A, {tuple(lora_A.shape)}, got {got}")
    return scores.to(lora_A.device)


def check_ratio(ratio: float) -> None:
    """Raise ValueError if a share to prune lies outside [0, 1)."""
    if not (is_number(ratio) and 0 <= ratio < 1):
        raise ValueError(f"the pruning ratio must lie in [0, 1), for example 0.5 for half of A, got {ratio!r}")


def number_pruned(ratio: float, entries: int) -> int:
    """k, the share of some entries, rounded down: 29 % of 100 are 29, though 0.29 * 100 is a little less."""
    return int(ratio * entries + 1e-9)


def keep_mask(scores: Tensor, ratio: float, scope: str = "row") -> Tensor:
    r"""Which entries survive: all but the k least important ones.

    .. math:: k = \lfloor \mathrm{ratio}\cdot n + 10^{-9} \rfloor

    Args:
        scores: S, (r, n).
        ratio: share to prune, in [0, 1).
        scope: ``row``: k of the n entries in each row; ``matrix``: k of the r n entries of the whole matrix.

    Returns:
        Boolean (r, n), True where the entry survives. Among equal scores the lower index is pruned first.

    Raises:
        ValueError: a ratio out of range, an unknown scope, or scores without rows.

    Source: comparing within a row is Wanda's; the rounding and the ties are our choice.
    """
    check_ratio(ratio)
    if scope not in PRUNING_SCOPES:
        raise unknown("pruning scope", scope, PRUNING_SCOPES)
    if scores.ndim != 2:
        raise ValueError(f"scores must be (r, n), a row for each row of A, got {tuple(scores.shape)}")
    rows = scores if scope == "row" else scores.reshape(1, -1)
    k = number_pruned(ratio, rows.shape[1])
    least = rows.argsort(dim=1, stable=True)[:, :k]
    return torch.ones_like(rows, dtype=torch.bool).scatter_(1, least, False).view(scores.shape)
