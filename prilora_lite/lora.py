"""One linear layer with a low-rank update beside its frozen weight: W0 x + s B A x."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prilora_lite.models.linear import check_mergeable, is_conv1d, is_hooked, is_quantized, linear_shape, product_dtype
from prilora_lite.shared.checks import is_integer, is_number, plain


class LoRALinear(nn.Module):
    r"""A frozen linear layer plus a trainable update of rank r.

    .. math:: y = W_0 x + b + s\,B A\,x, \qquad A \in \mathbb{R}^{r \times n},\; B \in \mathbb{R}^{m \times r}

    A starts random (Kaiming uniform) and B zero, so at the start the layer computes what its base computes,
    bit for bit. The weights of A and B are float32, or the base's type where that is wider.

    Args:
        base: ``nn.Linear`` with weight (m, n), or GPT-2's ``Conv1D`` with weight (n, m). It is frozen.
        rank: r, from 1 to min(m, n).
        scaling: the factor s. Always given, never implied: LoRA's rule is ``alpha / rank``.
        dropout: probability with which an entry of the update's input is dropped in training.

    Shapes: x (..., n) -> y (..., m).

    Raises:
        TypeError: ``base`` is another kind of layer, or its weight is quantized.
        ValueError: a rank, scaling or dropout outside its range. (Later a RuntimeError, if it is trained while merged.)

    Source: LoRA (Hu et al. 2021), section 4.1.
    """

    def __init__(self, base: nn.Module, rank: int, *, scaling: float, dropout: float = 0.0) -> None:
        super().__init__()
        rank, scaling, dropout = plain((rank, scaling, dropout))
        (out_features, in_features), weight = linear_shape(base), base.weight
        if is_quantized(weight):
            raise TypeError(f"the weight is {weight.dtype}: a quantized layer can't be adapted, load it unquantized")
        if not is_integer(rank, 1) or rank > min(out_features, in_features):
            raise ValueError(
                f"rank must be an integer from 1 to min(in, out) = {min(out_features, in_features)} "
                f"for a layer of shape {out_features}x{in_features}, got {rank!r}"
            )
        if not is_number(scaling) or scaling <= 0:
            raise ValueError(f"scaling must be a finite number above 0 (LoRA's rule is alpha / rank), got {scaling!r}")
        if not is_number(dropout) or not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout!r}")
        self.in_features, self.out_features = in_features, out_features
        self.rank, self.scaling, self.dropout = rank, float(scaling), float(dropout)
        self.base = base.requires_grad_(False)
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.lora_A = nn.Parameter(torch.empty(rank, in_features, dtype=dtype, device=weight.device))
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank, dtype=dtype, device=weight.device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # uniform within 1 / sqrt(n), as nn.Linear starts
        # Holds W0 while merged, so that unmerge is exact: a buffer, to follow the layer to another device; not saved.
        self.register_buffer("unmerged_weight", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = (x.flatten(0, -2) if x.ndim > 1 else x[None]).to(product_dtype(x))  # once: autocast would do it twice
        y = self.base(tokens)
        if self.merged:
            if self.training and torch.is_grad_enabled():
                raise RuntimeError("no gradient would reach A and B of a merged layer: unmerge() to train, or eval()")
            return y.view(*x.shape[:-1], self.out_features)
        if self.dropout and self.training:
            tokens = F.dropout(tokens, self.dropout)
        h = F.linear(tokens, self.lora_A.to(tokens.dtype))
        # y += s h B^T in one product and in place, without another pass over (tokens, m). On a CPU B^T is contiguous:
        # that lays out B's gradient as (r, tokens)(tokens, m), several times faster than (m, tokens)(tokens, r).
        B_T = self.lora_B.T.to(y.dtype)
        B_T = B_T.contiguous() if x.device.type == "cpu" else B_T
        y = (y.addmm if is_hooked(self.base) else y.addmm_)(h, B_T, alpha=self.scaling)  # a hook may keep what it saw
        return y.view(*x.shape[:-1], self.out_features)

    def delta_weight(self) -> Tensor:
        r""":math:`\Delta W = s\,B A`, laid out like the base's weight: (m, n), or (n, m) for ``Conv1D``."""
        delta = self.scaling * (self.lora_B @ self.lora_A)
        return delta.T if is_conv1d(self.base) else delta

    @property
    def merged(self) -> bool:
        """Whether the base's weight now holds :math:`W_0 + s B A`."""
        return self.unmerged_weight is not None

    @torch.no_grad()
    def merge(self) -> None:
        r"""Add the update to the base's weight, :math:`W \leftarrow W_0 + s B A`: one product instead of three.

        :math:`W_0` is kept, so a merged layer needs the memory of one more weight.

        Raises:
            RuntimeError: the layer is merged already, or the base computes its weight from other parameters.
        """
        if self.merged:
            raise RuntimeError("this layer is merged already; call unmerge() first")
        check_mergeable(self.base)
        weight = self.base.weight
        self.unmerged_weight = weight.detach().clone()
        weight.copy_(weight + self.delta_weight())  # added in the finer dtype of the two

    @torch.no_grad()
    def unmerge(self) -> None:
        """Give the base its own weight back, bit for bit.

        Raises:
            RuntimeError: the layer is not merged.
        """
        if not self.merged:
            raise RuntimeError("this layer is not merged; call merge() first")
        self.base.weight.copy_(self.unmerged_weight)
        self.unmerged_weight = None

    @property
    def weight(self) -> Tensor:
        """The weight of the base, since some models look at it to choose a dtype or device."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The bias of the base."""
        return self.base.bias

    def state_dict(self, *args: Any, prefix: str = "", **kwargs: Any) -> dict[str, Any]:
        """The layer's weights, with :math:`W_0` itself also while the layer is merged."""
        state = super().state_dict(*args, prefix=prefix, **kwargs)
        if self.merged:
            state[f"{prefix}base.weight"] = self.unmerged_weight
        return state

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        if self.merged:
            raise RuntimeError("this layer is merged, so weights loaded into it would be mixed: call unmerge() first")
        super()._load_from_state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        return f"rank={self.rank}, scaling={self.scaling:g}, dropout={self.dropout:g}, merged={self.merged}"
