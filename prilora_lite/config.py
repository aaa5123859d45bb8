"""Every knob of the method in one place."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from prilora_lite.ranks import MOST_LAYERS, linear_ranks
from prilora_lite.shared.errors import unknown

SCALINGS = ("layer", "sqrt", "mean")
IMPORTANCE_RULES = ("magnitude_input", "magnitude", "random")
PRUNING_SCOPES = ("row", "matrix")
LARGEST = 1e30  # of a number; what is computed from it stays finite


@dataclass(frozen=True)
class PRILoRAConfig:
    r"""The settings of PRILoRA. Plain LoRA is ``PRILoRAConfig(first_rank=8, last_rank=8, ratio=0)``.

    Args:
        first_rank: r_s, rank of the first layer. 4: our reading of the paper.
        last_rank: r_f, rank of the last layer. 12: our reading; 4 to 12 over 12 layers is the budget of LoRA r=8.
        alpha: numerator of the scaling s. 16: AdaLoRA's scripts for half of the GLUE tasks.
        scaling: how s depends on a layer's rank, ``layer`` (LoRA's own rule), ``sqrt`` or ``mean``, see
            :meth:`scalings`; or s itself, one number for each layer.
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
        seed: of the noise of ``random`` importance. None: the seed of the run.

    Raises:
        ValueError: a value out of range, or an unknown name.
    """

    first_rank: int = 4
    last_rank: int = 12
    alpha: float = 16.0
    scaling: str | tuple[float, ...] = "layer"
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None
    layers: tuple[int, ...] | None = None
    ratio: float = 0.5
    interval: int = 40
    decay: float = 0.9
    importance: str = "magnitude_input"
    scope: str = "row"
    regrow: bool = True
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("first_rank", "last_rank"):
            rank = getattr(self, name)
            if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {rank!r}")
        if not (is_number(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha must be a finite number above 0, got {self.alpha!r}")
        if isinstance(self.scaling, (tuple, list)):
            if not self.scaling or not all(is_number(s) and s > 0 for s in self.scaling):
                raise ValueError(f"scaling must be one finite number above 0 for each layer, got {self.scaling!r}")
            object.__setattr__(self, "scaling", tuple(float(s) for s in self.scaling))
        elif self.scaling not in SCALINGS:
            raise unknown("scaling", self.scaling, SCALINGS)
        for name in ("dropout", "ratio", "decay"):
            if not is_number(getattr(self, name)):
                raise ValueError(f"{name} must be a number in [0, 1), got {getattr(self, name)!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout!r}")
        if isinstance(self.targets, str):
            raise ValueError(f"targets must be several names, like ({self.targets!r},), got the one {self.targets!r}")
        if self.targets is not None:
            targets = self.targets if isinstance(self.targets, (tuple, list)) else (self.targets,)
            object.__setattr__(self, "targets", tuple(targets))
            if not self.targets or not all(isinstance(target, str) and target for target in self.targets):
                raise ValueError(
                    f"targets must be names of linear layers, or None for all of them; got {self.targets!r}"
                )
        if self.layers is not None:
            layers = self.layers if isinstance(self.layers, (tuple, list, range)) else (self.layers,)
            if not 0 < len(layers) <= MOST_LAYERS or not all(
                isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in layers
            ):
                raise ValueError(f"layers must be numbers of layers from 0 up, or None for all; got {self.layers!r}")
            object.__setattr__(self, "layers", tuple(sorted(set(layers))))
        if not isinstance(self.regrow, bool):
            raise ValueError(f"regrow must be True or False, got {self.regrow!r}")
        is_seed = isinstance(self.seed, int) and not isinstance(self.seed, bool) and 0 <= self.seed < 2**32
        if self.seed is not None and not is_seed:
            raise ValueError(
                f"seed must be an integer of at least 0 and below 2**32, or None for the run's, got {self.seed!r}"
            )
        check_pruning(self.ratio, self.interval, self.decay, self.importance, self.scope)

    def ranks(self, num_layers: int) -> list[int]:
        """The rank of each of ``num_layers`` layers, see :func:`~prilora_lite.ranks.linear_ranks`."""
        return linear_ranks(num_layers, self.first_rank, self.last_rank)

    def scalings(self, ranks: list[int]) -> list[float]:
        r"""The scaling s of each layer, by the rule that ``scaling`` names.

        .. math:: s_l = \frac{\alpha}{\bar r}\Big(\frac{\bar r}{r_l}\Big)^p, \qquad
            p = 1\ (\mathtt{layer}),\ 1/2\ (\mathtt{sqrt}),\ 0\ (\mathtt{mean})

        Where all ranks are equal the three rules agree. Where they differ, none is neutral:

        - ``layer``: :math:`\alpha / r_l`. Adam moves every entry of A and B by about the learning rate, and the r
          directions of a layer add up; dividing by r keeps the size of a layer's early steps independent of its rank.
          A single direction counts less in a layer of higher rank. Source: LoRA (Hu et al. 2021), section 4.1.
        - ``sqrt``: :math:`\alpha / \sqrt{r_l \bar r}`. Keeps the size of the update stable where the directions are
          unrelated and add up like noise. Source: rank-stabilised LoRA (Kalajdzievski 2023, arXiv 2312.03732), here
          with the mean rank, so that it agrees with LoRA's rule on flat ranks.
        - ``mean``: :math:`\alpha / \bar r`. A single direction counts the same in every layer, so a layer of higher
          rank also moves further in each step: raising the slope also raises the step size of the top layers. Our
          choice.

        Args:
            ranks: r_l, one for each layer.

        Returns:
            s_l, one for each layer.

        Raises:
            ValueError: the configuration lists scalings for another number of layers.

        >>> PRILoRAConfig(alpha=12, scaling="mean").scalings([4, 12])
        [1.5, 1.5]
        >>> PRILoRAConfig(alpha=12, scaling="layer").scalings([4, 12])
        [3.0, 1.0]
        """
        if isinstance(self.scaling, tuple):
            if len(self.scaling) != len(ranks):
                raise ValueError(f"scaling lists {len(self.scaling)} numbers, but there are {len(ranks)} layers")
            return list(self.scaling)
        if self.scaling == "mean":
            return [self.alpha * len(ranks) / sum(ranks)] * len(ranks)
        if self.scaling == "sqrt":
            mean = sum(ranks) / len(ranks)
            return [self.alpha / math.sqrt(rank * mean) for rank in ranks]
        return [self.alpha / rank for rank in ranks]

    def pruning(self, run_seed: int = 0) -> dict[str, Any]:
        """The arguments of :class:`~prilora_lite.pruner.Pruner`.

        Args:
            run_seed: of the run, for the noise of ``random`` importance, unless the configuration has a seed.
        """
        return {
            "ratio": self.ratio, "interval": self.interval, "decay": self.decay, "rule": self.importance,
            "scope": self.scope, "regrow": self.regrow, "seed": run_seed if self.seed is None else self.seed,
        }  # fmt: skip

    def canonical(self) -> PRILoRAConfig:
        """The same training with every setting that has no effect at its default.

        Two configurations train alike if this is equal: flat ranks have one scaling by all three rules, without
        pruning its settings do nothing, and only random importance has noise.
        """
        idle = set()
        if self.first_rank == self.last_rank and isinstance(self.scaling, str):
            idle.add("scaling")
        if not self.ratio:
            idle |= {"interval", "decay", "importance", "scope", "regrow", "seed"}
        if self.importance != "random":
            idle.add("seed")
        if self.importance != "magnitude_input":
            idle.add("decay")
        default = PRILoRAConfig()
        return dataclasses.replace(self, **{name: getattr(default, name) for name in idle})

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
        if not isinstance(fields, dict):
            raise ValueError(f"a configuration is a dictionary of settings and their values, got {fields!r}")
        names = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name not in names:
                raise unknown("setting", name, names)
        return cls(**fields)


def is_number(value: object) -> bool:
    """Whether a value is a finite number, and no larger than :data:`LARGEST`."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST  # False of NaN


def check_ratio(ratio: float) -> None:
    """Raise ValueError if a share to prune lies outside [0, 1)."""
    if not 0 <= ratio < 1:
        raise ValueError(f"the pruning ratio must lie in [0, 1), for example 0.5 for half of A, got {ratio!r}")


def check_pruning(ratio: float, interval: int, decay: float, rule: str, scope: str) -> None:
    """Raise ValueError with the way out if a pruning setting is out of range."""
    check_ratio(ratio)
    if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
        raise ValueError(f"the pruning interval must be an integer of at least 1 optimizer step, got {interval!r}")
    if not 0 <= decay < 1:
        raise ValueError(f"the decay of the input norms must lie in [0, 1), got {decay!r}")
    if rule not in IMPORTANCE_RULES:
        raise ValueError(f"the importance rule must be one of {', '.join(IMPORTANCE_RULES)}, got {rule!r}")
    if scope not in PRUNING_SCOPES:
        raise ValueError(f"the pruning scope must be one of {', '.join(PRUNING_SCOPES)}, got {scope!r}")
