"""The pruner: when to listen, when to prune, and what a resumed run must know."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from prilora_lite.config import PRILoRAConfig
from prilora_lite.importance import InputNorms, importance, inputs_of, keep_mask
from prilora_lite.lora import LoRALinear
from prilora_lite.models.layers import (
    PeftLayer,
    check_prunable,
    check_whole,
    configuration_of,
    layers_to_prune,
    stacked,
    without_wrappers,
)
from prilora_lite.models.listener import Listener, check_finite
from prilora_lite.models.masks import masks_of_zeros, mass_outside
from prilora_lite.models.pruner_state import check_state, record_pruning, stored_settings, warn_before_training
from prilora_lite.shared.errors import unknown, warn


class Pruner:
    r"""Prunes every A of an adapted model, this library's or PEFT's LoRA, again and again while it trains.

    Made once, before training, it listens to the layers' inputs. Call :meth:`step` after each optimizer step: it folds
    the statistics, and every N-th time it prunes. Call :meth:`prune` in the last step, before the model is evaluated
    and saved. Pruned entries go on training and may come back, unless ``regrow`` is off: then the mask of the first
    prune stays, also for a later Pruner of this A, and with ``interval=1`` it holds from the first step on. An A that
    is frozen when a prune comes stays as it is, and so does one that no pass has reached if its importance asks for
    inputs or gradients.

    Only forward passes that train are counted (in training mode, with gradients and the adapter on), and in them only
    the tokens that the model's ``attention_mask`` keeps. With gradient checkpointing, finish each backward pass
    before the next forward pass: layers that are run again use the latest mask. In a model with encoder and decoder the
    ``decoder_attention_mask`` says which of the decoder's tokens are real; without it, as with the collators for T5 and
    BART, all tokens count except padding after the first token.

    Args:
        model: a model with at least one :class:`~.lora.LoRALinear`, or one of PEFT's with LoRA: there the A of the
            active adapter is pruned. It may be inside ``DistributedDataParallel`` or ``torch.compile``.
        ratio, interval, decay, importance, scope, regrow: see :class:`~.config.PRILoRAConfig`. What is left out is
            taken from ``model.prilora_config``, where :func:`~.adapt.adapt` put it; a PEFT model has none, and
            gets the defaults.
        seed: seed for the noise of ``random`` importance, the same at every prune. (A mask drawn anew each time would
            zero trained weights in the last step.) None: the configuration's, else 0; in a loop of your own give each
            run its own seed, or all runs draw the same mask.

    Attributes:
        layers: the layers whose A is pruned, by name.
        settings: those it prunes by.
        steps: optimizer steps so far.
        pruned_at: the step of the latest prune, None before it.
        history: for each prune that chose entries its ``step``; the share of zeros in all A ``before`` and ``after``
            it; and its ``mass``: of the total squared norm of the A in which it chose entries, the share it removed.

    Raises:
        TypeError: not a model.
        ValueError: no layer to prune, or none that is trained, a value out of range, ranks that PEFT gave to no layer,
            or weights that FSDP, DeepSpeed or ``nn.DataParallel`` splits, copies or replicates, or that are offloaded.

    Source: PRILoRA (Benedek & Wolf 2024) prunes A throughout training; interval, regrowth and ratio are our reading.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        ratio: float | None = None,
        interval: int | None = None,
        decay: float | None = None,
        importance: str | Callable[..., Tensor] | None = None,
        scope: str | None = None,
        regrow: bool | None = None,
        seed: int | None = None,
    ) -> None:
        check_whole(model)
        self._model = model = without_wrappers(model)
        self.layers = layers_to_prune(model)
        given = {
            "ratio": ratio, "interval": interval, "decay": decay, "importance": importance, "scope": scope,
            "regrow": regrow, "seed": seed,
        }  # fmt: skip
        given = {name: value for name, value in given.items() if value is not None}
        earlier = configuration_of(model)
        config = dataclasses.replace(earlier or PRILoRAConfig(), **given)
        warn_before_training(model, given)
        self.settings = config.pruning()
        self._stored_settings = stored_settings(self.settings)  # as given: an object may change as it is called
        self.steps = 0
        self.history: list[dict[str, float]] = []
        self.pruned_at: int | None = None  # step of the latest prune
        self._pruned: set[str] = set()  # trained, and under no permanent mask, at the latest prune
        # Permanent masks, where regrowth is off; those of an earlier run go on, if they were permanent
        goes_on = not (self.settings["regrow"] or (earlier and earlier.regrow))
        self._masks = masks_of_zeros(self.layers, earlier or config) if goes_on else {}
        if self._masks and earlier and earlier.ratio != config.ratio:
            warn(
                f"the zeros of an earlier prune, at ratio {earlier.ratio:g} without regrowth, stay as they are: "
                f"ratio={config.ratio:g} has no effect; with regrow=True it has"
            )
        self._listener = Listener(model, self.layers, "gradient" in inputs_of(self.settings["importance"]))

    @property
    def norms(self) -> dict[str, InputNorms]:
        """The statistics of each layer's input, by the layer's name."""
        return self._listener.norms

    def step(self) -> None:
        """Fold the statistics of one optimizer step, and prune if the interval is over. Call after ``optimizer.step``.

        Raises:
            RuntimeError: no pass has trained since the last step, a layer is merged, or PEFT's adapter is not active.
            ValueError: an input is not finite (the step is not counted then), a weight of A is not, or the model has
                been sharded.
        """
        if self.steps == 0:
            check_whole(self._model)  # it may have been sharded since
        check_prunable(self.layers)
        self._listener.end_step(self.steps + 1, self.settings["decay"])
        self.steps += 1
        if self.steps % self.settings["interval"] == 0:
            self.prune()
        elif self._masks:
            self._apply(self._masks)

    @torch.no_grad()
    def prune(self) -> None:
        """Zero the least important entries of every A now. A second call changes nothing, unless A has moved since.

        Raises:
            RuntimeError: nothing has been accumulated yet, or without regrowth for a layer; and as for :meth:`step`.
            ValueError: a weight of A is not finite.
        """
        if self.steps == 0:
            raise RuntimeError("no statistics yet: call step() after each optimizer step, then prune()")
        self._listener.warn_if_untrained(self.layers, self.steps)
        check_prunable(self.layers)
        latest = self.history[-1]["after"] if self.history else 1
        self._apply(self._masks)
        free = self._trained().keys() - self._masks.keys()  # trained, and under no permanent mask
        # After another prune in this step there is work only if A has moved since, or was frozen then
        again = self.pruned_at == self.steps
        if free and not (again and self.sparsity() >= latest and free <= self._pruned):
            scores = {name: s for name, s in self._all_scores().items() if name in free}
            self._listener.warn_of_ties(scores, self.settings["scope"], self.steps)
            masks = {name: self._mask_of(s) for name, s in scores.items()}
            before, mass = self.sparsity(), mass_outside(self.layers, masks)
            self._apply(masks)
            self._pruned = free
            if not self.settings["regrow"]:
                self._masks |= masks
            record_pruning(self._model, self.settings)
            self.history.append({"step": self.steps, "before": before, "after": self.sparsity(), "mass": mass})
        self.pruned_at = self.steps

    def mean_square(self, name: str) -> Tensor | None:
        """The accumulated mean square s of a layer's input, (n,); None before its first step.

        Raises:
            ValueError: no adapted layer of that name.
        """
        return self.norms[self._known(name)].mean_square

    @torch.no_grad()
    def scores(self, name: str) -> Tensor:
        """The importance S of each entry of a layer's A as it is now, (r, n).

        Raises:
            RuntimeError: what the importance is a function of is missing for the layer.
            ValueError: no adapted layer of that name, one whose A is frozen, or a weight of A that is not finite.
        """
        if not self.layers[self._known(name)].lora_A.requires_grad:
            raise ValueError(f"lora_A of {name} is frozen: it has no scores, and a prune leaves it as it is")
        return self._all_scores(name)[name]

    def mask(self, name: str) -> Tensor:
        """Which entries of a layer's A a prune would keep now, boolean (r, n); the permanent mask where there is one.

        Raises:
            RuntimeError, ValueError: see :meth:`scores`.
        """
        return self._masks[name] if self._known(name) in self._masks else self._mask_of(self.scores(name))

    @torch.no_grad()
    def sparsity(self) -> float:
        """Share of zeros in all A, in [0, 1]."""
        zeros = stacked((layer.lora_A == 0).sum() for layer in self.layers.values()).sum().item()
        return zeros / sum(layer.lora_A.numel() for layer in self.layers.values())

    def detach(self) -> None:
        """Stop listening to the model. What was accumulated stays."""
        self._listener.stop()

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs: statistics, step, masks, history, and the settings."""
        return {
            "settings": dict(self._stored_settings),
            "layers": {name: list(layer.lora_A.shape) for name, layer in self.layers.items()},
            "steps": self.steps,
            "pruned_at": self.pruned_at,
            "history": [dict(entry) for entry in self.history],
            "norms": self._listener.state_dict(),
            "masks": dict(self._masks),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict` of a pruner over the same layers with the same settings.

        Raises:
            ValueError: other settings, other layers or other shapes, or a state of an earlier version; nothing is
                changed then.
        """
        check_state(state, self.state_dict(), self.settings["importance"])
        self.steps, self.pruned_at = state["steps"], state["pruned_at"]
        self.history = [dict(entry) for entry in state["history"]]
        self._pruned = set(self._trained())
        self._masks = {name: mask.to(self.layers[name].lora_A.device) for name, mask in state["masks"].items()}
        self._listener.load_state_dict(state["norms"])

    def forget_pending(self) -> None:
        """Drop what was counted since the last step, which a resumed run does again."""
        self._listener.forget_pending()

    @torch.no_grad()
    def _all_scores(self, *asked: str) -> dict[str, Tensor]:
        """The scores of each A that is trained and has been reached; RuntimeError if one that is asked for has not."""
        rule, trained, scores = self.settings["importance"], self._trained(), {}
        asks_for = inputs_of(rule)
        # Seeded anew each time, and on the CPU, so that every prune, device and process draws the same
        generator = torch.Generator().manual_seed(self.settings["seed"])
        for name, layer in self.layers.items():  # of a frozen A too, or the noise of those after it would change
            given = {"mean_square": self.mean_square(name), "gradient": self._listener.gradients.get(name)}
            if any(value is None and what in asks_for for what, value in given.items()):
                continue
            of_layer = importance(layer.lora_A, rule=rule, generator=generator, **given)
            if name in trained:
                check_finite(name, self.steps, layer.lora_A, given["gradient"], of_layer)
                scores[name] = of_layer
        # What has never run has not been trained, so it may wait; but permanent masks are chosen only once
        needed = asked if scores and self.settings["regrow"] else trained
        self._listener.check_reached([name for name in trained if name not in scores], needed, self.steps)
        return scores

    def _trained(self) -> dict[str, LoRALinear | PeftLayer]:
        """The layers whose A is trained now: what is frozen stays as it is."""
        return {name: layer for name, layer in self.layers.items() if layer.lora_A.requires_grad}

    def _mask_of(self, scores: Tensor) -> Tensor:
        return keep_mask(scores, self.settings["ratio"], self.settings["scope"])

    @torch.no_grad()
    def _apply(self, masks: dict[str, Tensor]) -> None:
        for name, mask in masks.items():
            self.layers[name].lora_A.masked_fill_(~mask, 0)

    def _known(self, name: str) -> str:
        if name not in self.layers:
            raise unknown("adapted layer", name, self.layers)
        return name
