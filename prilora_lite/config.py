"""Every setting of the method in one place."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from prilora_lite.importance import PRUNING_SCOPES, check_ratio, importance_rule, inputs_of
from prilora_lite.ranks import MOST_LAYERS, SCHEDULES, ranks_by_depth
from prilora_lite.shared.checks import is_integer, is_number, is_seed, plain
from prilora_lite.shared.errors import unknown

SCALINGS = ("layer", "sqrt", "mean")


@dataclass(frozen=True)
class PRILoRAConfig:
    r"""The settings of PRILoRA, with their defaults and where these come from. Plain LoRA: ``PRILoRAConfig.lora(8)``.

    Args:
        first_rank: r_s, rank of the first layer. 4: our reading of the paper.
        last_rank: r_f, rank of the last layer. 12: our reading; 4 to 12 over 12 layers is the budget of LoRA r=8.
        ranks: ``linear`` from the first rank to the last, or another of :data:`~.ranks.SCHEDULES`; or, in place of both
            ends, the ranks themselves, one for each layer, or a function from a layer's depth in [0, 1] to its rank.
        alpha: numerator of the scaling s. 16: AdaLoRA's scripts for half of the GLUE tasks.
        scaling: how s depends on a layer's rank, ``layer`` (LoRA's own rule), ``sqrt`` or ``mean``, see
            :meth:`scalings`; or s itself, one number for each layer.
        dropout: dropout of the update's input, in [0, 1). 0: LoRA's and AdaLoRA's scripts for GLUE on DeBERTaV3.
        targets: names of the linear layers to adapt, inside a layer: ``"query"``, ``"attention.output.dense"``.
            A full name means that one; a last part, ``"dense"``, means all that end in it. None: all of them.
        layers: numbers of the layers to adapt, from 0 on; they keep the ranks that the whole schedule gives them.
            None: all of them.
        ratio: share of each A that is pruned, in [0, 1). 0.5: our reading. 0: no pruning.
        interval: N, optimizer steps from one prune to the next. 40: our reading. A run that has fewer steps is pruned
            once, at its end: choose the interval so that there are several prunes.
        decay: :math:`\beta` of the moving average of the input's mean square. 0.9: our choice.
        importance: ``magnitude_input`` (our reading), ``magnitude``, ``random``, or another of
            :data:`~.importance.IMPORTANCE_RULES`; or a function of your own, see there.
        scope: compare importance within a ``row`` of A (our choice, as in Wanda) or in the whole ``matrix``.
        regrow: whether pruned entries go on training and may return. True: our choice.
        seed: seed for the noise of ``random`` importance. None: the seed of the run.

    Raises:
        ValueError: a value out of range, or an unknown name.
    """

    first_rank: int = 4
    last_rank: int = 12
    ranks: str | tuple[int, ...] | Callable[[float], float] = "linear"
    alpha: float = 16.0
    scaling: str | tuple[float, ...] = "layer"
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None
    layers: tuple[int, ...] | None = None
    ratio: float = 0.5
    interval: int = 40
    decay: float = 0.9
    importance: str | Callable[..., Tensor] = "magnitude_input"
    scope: str = "row"
    regrow: bool = True
    seed: int | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))
        self._check_ranks()
        self._check_scaling_and_dropout()
        self._check_places()
        self._check_pruning()

    def _check_ranks(self) -> None:
        for name in ("first_rank", "last_rank"):
            if not is_integer(getattr(self, name), 1):
                raise ValueError(f"{name} must be an integer of at least 1, got {getattr(self, name)!r}")
        if isinstance(self.ranks, (tuple, list, range)):
            if not self.ranks or not all(is_integer(rank, 1) for rank in self.ranks):
                raise ValueError(f"ranks must be one integer of at least 1 for each layer, got {self.ranks!r}")
            object.__setattr__(self, "ranks", tuple(self.ranks))
        elif not callable(self.ranks) and self.ranks not in list(SCHEDULES):  # a list: not all has a hash
            if is_integer(self.ranks, 1):
                raise ValueError(f"ranks={self.ranks}: the same rank in all layers is PRILoRAConfig.lora({self.ranks})")
            raise unknown("schedule of ranks", self.ranks, SCHEDULES)

    def _check_scaling_and_dropout(self) -> None:
        if not (is_number(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha must be a finite number above 0, got {self.alpha!r}")
        if isinstance(self.scaling, (tuple, list)):
            if not self.scaling or not all(is_number(s) and s > 0 for s in self.scaling):
                raise ValueError(f"scaling must be one finite number above 0 for each layer, got {self.scaling!r}")
            object.__setattr__(self, "scaling", tuple(float(s) for s in self.scaling))
        elif self.scaling not in SCALINGS:
            raise unknown("scaling", self.scaling, SCALINGS)
        if not (is_number(self.dropout) and 0 <= self.dropout < 1):
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout!r}")

    def _check_places(self) -> None:
        if isinstance(self.targets, str):
            raise ValueError(f"targets must be a tuple of names, such as ({self.targets!r},), got {self.targets!r}")
        if self.targets is not None:
            targets = self.targets if isinstance(self.targets, (tuple, list)) else (self.targets,)
            object.__setattr__(self, "targets", tuple(targets))
            if not self.targets or not all(isinstance(target, str) and target for target in self.targets):
                raise ValueError(f"targets must be names of linear layers, or None for all; got {self.targets!r}")
        if self.layers is not None:
            layers = self.layers if isinstance(self.layers, (tuple, list, range)) else (self.layers,)
            if not 0 < len(layers) <= MOST_LAYERS or not all(is_integer(layer) for layer in layers):
                raise ValueError(f"layers must be numbers of layers from 0 up, or None for all; got {self.layers!r}")
            object.__setattr__(self, "layers", tuple(sorted(set(layers))))

    def _check_pruning(self) -> None:
        check_ratio(self.ratio)
        if not is_integer(self.interval, 1):
            raise ValueError(f"interval must be an integer of at least 1 optimizer step, got {self.interval!r}")
        if not (is_number(self.decay) and 0 <= self.decay < 1):
            raise ValueError(f"the decay of the input norms must lie in [0, 1), got {self.decay!r}")
        importance_rule(self.importance)
        if self.scope not in PRUNING_SCOPES:
            raise unknown("pruning scope", self.scope, PRUNING_SCOPES)
        if not isinstance(self.regrow, bool):
            raise ValueError(f"regrow must be True or False, got {self.regrow!r}")
        if self.seed is not None and not is_seed(self.seed):
            raise ValueError(f"seed must be an integer from 0 to 2**32 - 1, or None for the run's, got {self.seed!r}")

    @classmethod
    def lora(cls, rank: int, **settings: Any) -> PRILoRAConfig:
        """Plain LoRA: the same rank in all layers, nothing pruned.

        Args:
            rank: the rank r of every layer.
            settings: any other field, such as ``alpha``, ``targets`` or ``ratio``.

        >>> PRILoRAConfig.lora(8).layer_ranks(4)
        [8, 8, 8, 8]
        """
        return cls(**{"first_rank": rank, "last_rank": rank, "ratio": 0.0} | settings)

    def layer_ranks(self, num_layers: int) -> list[int]:
        """The rank of each of ``num_layers`` layers, see :func:`~prilora_lite.ranks.linear_ranks`.

        Raises:
            ValueError: ranks for another number of layers are listed or given by a schedule, or a rank is below 1.

        >>> PRILoRAConfig(ranks=lambda depth: 2 + 6 * depth**2).layer_ranks(4)
        [2, 3, 5, 8]
        """
        if callable(self.ranks):
            return ranks_by_depth(num_layers, self.ranks)
        listed, ends = isinstance(self.ranks, tuple), (self.first_rank, self.last_rank)
        ranks = plain(list(self.ranks if listed else SCHEDULES[self.ranks](num_layers, *ends)))
        if len(ranks) != num_layers or not all(is_integer(rank, 1) for rank in ranks):
            said = "ranks lists" if listed else f"the schedule {self.ranks!r} gives"
            raise ValueError(f"{said} {ranks}, but there are {num_layers} layers: one integer of at least 1 for each")
        return ranks

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
        """The settings of :class:`~prilora_lite.pruner.Pruner`, by their names.

        Args:
            run_seed: seed of the run, for the noise of ``random`` importance, unless the configuration has a seed.
        """
        names = ("ratio", "interval", "decay", "importance", "scope", "regrow")
        return {name: getattr(self, name) for name in names} | {"seed": run_seed if self.seed is None else self.seed}

    def canonical(self) -> PRILoRAConfig:
        """The same configuration with every setting that has no effect set to its default.

        Two configurations train alike if this is equal. The ends have no effect beside listed ranks, the schedule where
        both ends are equal, the rule of scaling where all ranks are equal, alpha beside listed scalings, the settings
        of pruning where the ratio is 0, and seed or decay where the importance has no use for noise or the inputs.
        """
        idle = set()
        if not isinstance(self.ranks, str):
            idle |= {"first_rank", "last_rank"}
        flat = len(set(self.ranks)) == 1 if isinstance(self.ranks, tuple) else self.first_rank == self.last_rank
        if flat and isinstance(self.ranks, str):
            idle.add("ranks")
        if flat and not callable(self.ranks) and isinstance(self.scaling, str):
            idle.add("scaling")
        if not isinstance(self.scaling, str):
            idle.add("alpha")
        if not self.ratio:
            idle |= {"interval", "decay", "importance", "scope", "regrow", "seed"}
        if "generator" not in inputs_of(self.importance):
            idle.add("seed")
        if "mean_square" not in inputs_of(self.importance):
            idle.add("decay")
        default = PRILoRAConfig()
        return dataclasses.replace(self, **{name: getattr(default, name) for name in idle})

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON.

        Raises:
            ValueError: ranks or importance is a function, which no file can hold; the message says what to do.
        """
        ways = {"ranks": "give ranks=config.layer_ranks(number of layers)"}
        ways["importance"] = "put it into importance.IMPORTANCE_RULES under a name, and give the name"
        for name, way in ways.items():
            if callable(getattr(self, name)):
                raise ValueError(f"{name} is a function, which no file can hold: {way}")
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> PRILoRAConfig:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: a field that does not exist (the message names the nearest that does), or a value out of range.
        """
        if not isinstance(fields, dict):
            raise ValueError(f"a configuration is a dictionary of settings and their values, got {fields!r}")
        names = [field.name for field in dataclasses.fields(cls)]
        if foreign := [name for name in fields if name not in names]:
            raise unknown("setting", foreign[0], names)
        return cls(**fields)
