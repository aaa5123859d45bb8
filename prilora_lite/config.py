"""Every knob of the method in one place."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import Any

from prilora_lite.errors import unknown
from prilora_lite.pruner import check_pruning
from prilora_lite.ranks import linear_ranks

SCALINGS = ("mean", "layer")


@dataclass(frozen=True)
class PRILoRAConfig:
    r"""The settings of PRILoRA. Plain LoRA is ``PRILoRAConfig(first_rank=8, last_rank=8, ratio=0)``.

    Args:
        first_rank: r_s, rank of the first layer. 4: our reading of the paper.
        last_rank: r_f, rank of the last layer. 12: our reading; 4 to 12 over 12 layers is the budget of LoRA r=8.
        alpha: numerator of the scaling s. 16: AdaLoRA's scripts for half of the GLUE tasks.
        scaling: ``mean``: :math:`s = \alpha / \bar r` in all layers, so that changing the slope changes ranks and
            nothing else; ``layer``: LoRA's rule layer by layer, :math:`s_l = \alpha / r_l`. Our choice.
        dropout: of the update's input, in [0, 1). 0: LoRA's and AdaLoRA's scripts for GLUE on DeBERTaV3.
        targets: names of the linear layers to adapt, inside a layer: ``"query"``, ``"attention.output.dense"``.
            A full name inside the layer means that one, a last part means all that end in it. None: all of them.
        layers: numbers of the layers to adapt, the first is 0; they keep the ranks that the whole schedule gives them.
            None: all of them.
        ratio: share of each A that is pruned, in [0, 1). 0.5: our reading. 0: no pruning.
        interval: N, optimizer steps from one prune to the next. 40: our reading.
        decay: :math:`\beta` of the moving average of the input's mean square. 0.9: our choice.
        importance: ``magnitude_input`` (our reading), ``magnitude`` or ``random``.
        scope: compare importance within a ``row`` of A (our choice, as in Wanda) or in the whole ``matrix``.
        regrow: whether pruned entries go on training and may return. True: our choice.
        seed: of the noise of ``random`` importance.

    Raises:
        ValueError: a value out of range, or an unknown name.
    """

    first_rank: int = 4
    last_rank: int = 12
    alpha: float = 16.0
    scaling: str = "mean"
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None
    layers: tuple[int, ...] | None = None
    ratio: float = 0.5
    interval: int = 40
    decay: float = 0.9
    importance: str = "magnitude_input"
    scope: str = "row"
    regrow: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("first_rank", "last_rank"):
            rank = getattr(self, name)
            if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {rank!r}")
        if not (_is_number(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha must be a finite number above 0, got {self.alpha!r}")
        if self.scaling not in SCALINGS:
            raise unknown("scaling", self.scaling, SCALINGS)
        for name in ("dropout", "ratio", "decay"):
            if not _is_number(getattr(self, name)):
                raise ValueError(f"{name} must be a number in [0, 1), got {getattr(self, name)!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout!r}")
        if isinstance(self.targets, str):
            raise ValueError(f"targets must be several names, like ({self.targets!r},), got the one {self.targets!r}")
        if self.targets is not None:
            object.__setattr__(self, "targets", tuple(self.targets))
            if not self.targets or not all(isinstance(target, str) and target for target in self.targets):
                raise ValueError(
                    f"targets must be names of linear layers, or None for all of them; got {self.targets!r}"
                )
        if self.layers is not None:
            layers = self.layers if isinstance(self.layers, (tuple, list, range)) else (self.layers,)
            if not layers or not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in layers):
                raise ValueError(f"layers must be numbers of layers from 0 up, or None for all; got {self.layers!r}")
            object.__setattr__(self, "layers", tuple(sorted(set(layers))))
        if not isinstance(self.regrow, bool):
            raise ValueError(f"regrow must be True or False, got {self.regrow!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ValueError(f"seed must be an integer, got {self.seed!r}")
        check_pruning(self.ratio, self.interval, self.decay, self.importance, self.scope)

    def ranks(self, num_layers: int) -> list[int]:
        """The rank of each of ``num_layers`` layers, see :func:`~prilora_lite.ranks.linear_ranks`."""
        return linear_ranks(num_layers, self.first_rank, self.last_rank)

    def scalings(self, ranks: list[int]) -> list[float]:
        r"""s of each layer: :math:`\alpha/\bar r` for all, or :math:`\alpha/r_l`."""
        if self.scaling == "mean":
            return [self.alpha * len(ranks) / sum(ranks)] * len(ranks)
        return [self.alpha / rank for rank in ranks]

    def pruning(self) -> dict[str, Any]:
        """The arguments of :class:`~prilora_lite.pruner.Pruner`."""
        return {
            "ratio": self.ratio, "interval": self.interval, "decay": self.decay, "rule": self.importance,
            "scope": self.scope, "regrow": self.regrow, "seed": self.seed,
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        fields = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> PRILoRAConfig:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: a field that does not exist (the nearest that does is named), or a value out of range.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name not in names:
                raise unknown("setting", name, names)
        return cls(**fields)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
