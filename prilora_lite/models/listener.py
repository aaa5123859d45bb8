"""What the pruner hears of a model while it trains: the inputs of its adapted layers, and the gradients of their A."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prilora_lite.importance import InputNorms, number_of_tokens, sum_of_squares
from prilora_lite.lora import LoRALinear
from prilora_lite.models.layers import PeftLayer, stacked
from prilora_lite.models.tokens import Hook, RealTokens
from prilora_lite.shared.errors import Diverged, first_of, warn

SOME_STEPS = 10  # a warm-up's first step moves nothing, nor does one that a GradScaler skips


class Listener:
    """Counts the inputs of a model's adapted layers as they pass, each layer's in its own :class:`InputNorms`.

    Only passes that train are counted: in training mode, with gradients and the adapter on.

    Args:
        model: the whole model.
        layers: its adapted layers, see :func:`~.layers.lora_layers`.
        keeps_gradients: whether to keep the gradient of each A, which is gone after ``optimizer.zero_grad()``.

    A GPU is told what to do one small operation at a time, and telling it takes longer than doing it. So what a pass
    counts is only kept in the pass, and added to the statistics of all layers together; folding goes the same way.

    Raises:
        ValueError: see :class:`RealTokens`.
    """

    def __init__(self, model: nn.Module, layers: dict[str, LoRALinear | PeftLayer], keeps_gradients: bool) -> None:
        _warn_of_half_precision(layers)
        self._norms = {name: InputNorms(layer.in_features, layer.lora_A.device) for name, layer in layers.items()}
        self._tokens = RealTokens(model)
        # An input, its mask, its source and version, and its sums of squares
        self._latest: tuple[Tensor, Tensor | None, tuple[str, int], Tensor] | None = None
        self._counted: dict[str, tuple[Tensor, int | Tensor]] = {}  # of one pass: each layer's sums, and its tokens
        self._number: tuple[Tensor, Tensor] | None = None  # the mask that was counted last, and its sum
        self._gradients: dict[str, Tensor] = {}  # of steps that have ended
        self._passing: dict[str, Tensor] = {}  # of the step that has not
        self._kept_of: dict[str, nn.Parameter] = {}  # each A whose gradient is kept
        self._keeps_gradients = keeps_gradients
        self._warned = self._warned_of_ties = False
        self._looked_at_B = False  # it starts at zero: warn_if_untrained looks at it once
        self._hooks = list(self._tokens.hooks)
        for name, layer in layers.items():
            module = model.get_submodule(name)
            self._hooks.append(module.register_forward_pre_hook(Hook(self._counter(name, module, layer))))
            if keeps_gradients:
                self._kept_of[name], trained = layer.lora_A, layer.lora_A.requires_grad
                layer.lora_A.requires_grad_(True)  # a frozen one takes no hook, and may be trained later
                self._hooks.append(layer.lora_A.register_post_accumulate_grad_hook(Hook(self._keeper(name))))
                layer.lora_A.requires_grad_(trained)

    def stop(self) -> None:
        """Listen no more. What was counted stays."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __reduce__(self) -> tuple:
        """Raise TypeError: a copy, pickled or not, would have no hooks in its model, and hear nothing."""
        raise TypeError(
            "a Pruner can't be copied or pickled, since it listens to one model: copy or save its state_dict(), and "
            "give that to load_state_dict() of a Pruner that was made with the other model"
        )

    @property
    def norms(self) -> dict[str, InputNorms]:
        """The statistics of each layer, by its name."""
        self._settle()
        return self._norms

    @property
    def gradients(self) -> dict[str, Tensor]:
        """The latest gradient of each A, by the layer's name; once a step has ended, the mean over all processes."""
        return self._gradients | self._passing

    def end_step(self, step: int, decay: float) -> None:
        """Fold what each layer has seen in an optimizer step, over all processes; it waits for the device once.

        Args:
            step: number of the optimizer step, for the message.
            decay: see :meth:`InputNorms.fold`; layers that have seen no token stay as they are, as when all of them
                were left out by LayerDrop, or everything was padding.

        Raises:
            RuntimeError: no pass has trained.
            ValueError: an input was not finite; the step is not counted then, and the next one begins anew.
        """
        self._latest = self._number = None
        norms = self.norms
        _sum_over_processes([part for n in norms.values() for part in (n.squares, n.tokens)])
        counts = stacked(n.tokens for n in norms.values())
        totals = stacked(torch._foreach_norm([n.squares for n in norms.values()], 1))
        tokens, totals = torch.stack([counts.to(totals), totals]).tolist()
        if not (any(tokens) or self._tokens.passed):
            raise RuntimeError(f"no forward pass in training mode since the last step: {self._why_none()}")
        self._tokens.passed = False
        bad = [name for name, total in zip(norms, totals, strict=True) if not math.isfinite(total)]
        if bad:
            self.forget_pending()  # else the next step, of a good batch, would hold this one's NaN
            raise Diverged(
                f"NaN or infinity in the input of {first_of(bad)} in optimizer step {step}: "
                "check the batch, then try a lower learning rate or float32; a loop that leaves such a batch out calls "
                "pruner.forget_pending() then"
            )
        self._keep_gradients([name for name, number in zip(norms, tokens, strict=True) if number])
        seen = {n: number for n, number in zip(norms.values(), tokens, strict=True) if number}
        first, later = ([n for n in seen if (n.mean_square is None) == new] for new in (True, False))
        _fold(later, seen, decay)
        _fold(first, seen, 0.0)

    def _why_none(self) -> str:
        """What may be behind a step without a pass, and how to mend it."""
        if not self._hooks:
            return "the pruner was detached, so it hears none: make a new one, Pruner(model)"
        return (
            "if the model was in evaluation mode, call model.train() before the pass; if step() was called twice for "
            "one pass, as with two optimizers, call it once, after both; if the pass went through a copy of the model, "
            "make the Pruner with that copy, before training starts"
        )

    def check_reached(self, unreached: list[str], needed: Collection[str], step: int) -> None:
        """Say which layers no pass has reached: an error for those that are needed, else a warning, once.

        Raises:
            RuntimeError: some are needed.
        """
        if not unreached:
            return
        lacking = [name for name in unreached if name in needed]
        if lacking and all(self.norms[name].mean_square is not None for name in lacking):
            raise RuntimeError(
                f"no gradient has reached {first_of(lacking)} in {step} steps, so its entries can't be scored: the "
                "rule reads gradients, which loss.backward() leaves there, and torch.autograd.grad does not"
            )
        said = f"no training pass has reached {first_of(lacking or unreached)} in {step} steps, so its entries "
        said += "can't be scored"
        way = "call train() on such layers (and enable_input_require_grads() on a model whose layers run inside a "
        way += "function of their own, as Reformer's do), or leave them out with targets (target_modules in PEFT)"
        if lacking:
            raise RuntimeError(f"{said}: {way}, or use importance='magnitude'")
        if not self._warned:
            warn(f"{said}, and it is not pruned until one does; if none ever will, {way}")
        self._warned = True

    def warn_of_ties(self, scores: Mapping[str, Tensor], scope: str, step: int) -> None:
        """Warn, once, if a rule scores alike all entries of an A that are compared: they go by their places then."""
        if self._warned_of_ties or not scores:
            return
        compared = {name: s if scope == "row" else s.reshape(1, -1) for name, s in scores.items()}
        alike = stacked((s.amin(1) == s.amax(1)).all() for s in compared.values()).tolist()
        if tied := [name for name, tie in zip(scores, alike, strict=True) if tie]:
            self._warned_of_ties = True
            cause = "look at what the importance returns, and whether the inputs are all zero"
            if self._keeps_gradients:
                cause = (
                    "A has no gradient while B is zero, in the first step and while a warm-up begins. Choose an "
                    "interval that ends later"
                )
            warn(
                f"all entries of {'a row of ' * (scope == 'row')}lora_A have the same importance in {first_of(tied)} "
                f"in step {step}, so those with the lowest index are pruned: {cause}"
            )

    def warn_if_untrained(self, layers: Mapping[str, LoRALinear | PeftLayer], steps: int) -> None:
        """:func:`warn_if_untrained`, once."""
        if not self._looked_at_B:
            warn_if_untrained(layers, steps)
            self._looked_at_B = steps >= SOME_STEPS

    def forget_pending(self) -> None:
        """Drop what was counted since the last step."""
        for norms in self.norms.values():
            norms.squares.zero_()
            norms.tokens.zero_()
        self._passing = {}

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """The statistics of all layers, by their names, and the gradients of A where they are kept."""
        state = {
            name: {"squares": n.squares.clone(), "tokens": n.tokens.clone(), "mean_square": n.mean_square}
            for name, n in self.norms.items()
        }
        for name in self._kept_of:
            state[name] |= {"gradient": self._gradients.get(name), "passing": self._passing.get(name)}
        return state

    def load_state_dict(self, state: dict[str, dict[str, Any]]) -> None:
        """Go on from the statistics that :meth:`state_dict` gave for the same layers."""
        for name, stored in state.items():
            norms = self.norms[name]
            device = norms.squares.device
            norms.squares = stored["squares"].to(device, copy=True)
            norms.tokens = stored["tokens"].to(device, copy=True)
            norms.mean_square = None if stored["mean_square"] is None else stored["mean_square"].to(device)
        self._gradients, self._passing = (
            {
                name: gradient.to(A.device)
                for name, A in self._kept_of.items()
                if (gradient := state[name].get(kind)) is not None
            }
            for kind in ("gradient", "passing")  # a state of an earlier version has neither
        )

    def _counter(
        self, name: str, module: nn.Module, layer: LoRALinear | PeftLayer
    ) -> Callable[[nn.Module, tuple], None]:
        """A hook that counts a layer's input."""
        source, norms, tokens = self._tokens.source_of(name, module), self._norms[name], self._tokens
        may_be_off = isinstance(layer, PeftLayer)  # in a pass of the base alone, or of another adapter

        def count(module: nn.Module, args: tuple) -> None:
            counts = module.training and torch.is_grad_enabled() and not (may_be_off and not layer.active)
            if not counts or not tokens.holds_tokens(name):
                return
            if not args:
                raise TypeError(f"{name} is called with its input by keyword, where it can't be read: write layer(x)")
            x = args[0]
            if torch.compiler.is_compiling():
                norms.add(x, tokens.real(name, source, x))  # the compiler sees for itself what is squared twice
                return
            real = tokens.real(name, source, x)
            seen, latest = (source, x.is_inference() or x._version), self._latest  # the version grows with each write
            if latest is None or latest[0] is not x or latest[1] is not real or latest[2] != seen:
                self._latest = x, real, seen, sum_of_squares(x, real)  # query, key and value read one: squared once
            if name in self._counted:  # another pass
                self._settle()
            self._counted[name] = self._latest[3], self._number_of(x, real)

        return count

    def _number_of(self, x: Tensor, real: Tensor | None) -> int | Tensor:
        """The number of real tokens, counted once for all layers where they are told by the same truth values."""
        if real is None or real.dtype != torch.bool:
            return number_of_tokens(x, real)
        if self._number is None or self._number[0] is not real:
            self._number = real, number_of_tokens(x, real)
        return self._number[1]

    @torch.no_grad()
    def _settle(self) -> None:
        """Add what the latest pass has counted to the statistics."""
        if not self._counted:
            return
        norms, counts = [self._norms[name] for name in self._counted], list(self._counted.values())
        self._counted = {}
        for n, (squares, _) in zip(norms, counts, strict=True):
            n.take_type_of(squares)
        torch._foreach_add_([n.squares for n in norms], [squares for squares, _ in counts])
        for kind in (int, Tensor):
            chosen = [i for i, (_, number) in enumerate(counts) if isinstance(number, kind)]
            if chosen:
                torch._foreach_add_([norms[i].tokens for i in chosen], [counts[i][1] for i in chosen])

    def _keeper(self, name: str) -> Callable[[Tensor], None]:
        """A hook that keeps the gradient of a layer's A."""

        def keep(lora_A: Tensor) -> None:
            gradient = lora_A.grad.detach().clone()  # zero_grad may zero it in place
            before = self._passing.get(name, self._gradients.get(name))
            if before is not None:  # a step that a GradScaler skips overflows: the one before stays
                gradient = torch.where(gradient.isfinite().all(), gradient, before)
            self._passing[name] = gradient

        return keep

    def _keep_gradients(self, reached: list[str]) -> None:
        """Take over the gradients of the step that ends now, of all processes: DDP averages after they were kept.

        Args:
            reached: layers that had a token in any process. Backward passes differ in their order, and with LayerDrop
                in their layers; these are the same everywhere.
        """
        if _processes() > 1:
            kept = {name: self._kept_of[name] for name in reached if name in self._kept_of}
            means = {name: self._passing.get(name, torch.zeros_like(A)) / _processes() for name, A in kept.items()}
            _sum_over_processes(list(means.values()))
            self._passing = means
        self._gradients, self._passing = self.gradients, {}


def _warn_of_half_precision(layers: dict[str, LoRALinear | PeftLayer]) -> None:
    half = {str(layer.lora_A.dtype).removeprefix("torch.") for layer in layers.values() if layer.lora_A.itemsize < 4}
    for kind in sorted(half):
        warn(
            f"A is in {kind}, in which small steps round to nothing, so that most of it hardly trains: cast the model "
            "before adapt, which keeps A and B in float32, and use autocast (bf16=True in TrainingArguments) for speed"
        )


def _processes() -> int:
    """How many processes train together."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


@torch.no_grad()
def _sum_over_processes(parts: list[Tensor]) -> None:
    """Under data parallelism each process sees different inputs; with the sums over all, they prune alike."""
    if _processes() == 1 or not parts:
        return
    flat = torch.cat([part.flatten().to(parts[0].device) for part in parts])  # a model may be spread over several
    torch.distributed.all_reduce(flat)
    for part, total in zip(parts, flat.split([part.numel() for part in parts]), strict=True):
        part.copy_(total.view(part.shape))


def warn_if_untrained(layers: Mapping[str, LoRALinear | PeftLayer], steps: int) -> None:
    """Warn if B is still zero after some steps; the first may be a warm-up's, or a GradScaler's."""
    if steps >= SOME_STEPS and not stacked(layer.lora_B.any() for layer in layers.values()).any():
        warn(
            f"lora_B of all layers is still zero after {steps} steps, so no adapter has been trained: make the "
            "optimizer after the model was adapted, and call its step before the pruner's; if the layers run inside a "
            "function of their own, as Reformer's do, call model.enable_input_require_grads() before training"
        )


def check_finite(name: str, step: int, lora_A: Tensor, gradient: Tensor | None, scores: Tensor) -> None:
    """Raise ValueError, which names the cause, unless a layer's A and the scores of its entries are finite."""
    if not lora_A.isfinite().all():
        raise Diverged(
            f"NaN or infinity in lora_A of {name} at step {step}: lower the learning rate, and load a model that is in "
            "float16 with dtype=torch.float32"
        )
    if not scores.isfinite().all():
        if gradient is not None and not gradient.isfinite().all():
            raise ValueError(
                f"no gradient of lora_A of {name} has been finite up to step {step}: while a GradScaler looks for its "
                "scale it skips steps, so prune later (a larger interval)"
            )
        raise ValueError(
            f"the importance rule gives {name} scores that are NaN or infinite at step {step}, though its lora_A is "
            "finite: check its divisions, roots and logarithms"
        )


@torch.no_grad()
def _fold(norms: list[InputNorms], tokens: dict[InputNorms, float], decay: float) -> None:
    """:meth:`InputNorms.fold` of several layers at once, to the same bits; decay 0 is for their first fold."""
    if not norms:
        return
    means = torch._foreach_div([n.squares for n in norms], [tokens[n] for n in norms])
    if decay:
        torch._foreach_mul_(means, 1 - decay)
        torch._foreach_add_(means, torch._foreach_mul([n.mean_square for n in norms], decay))
    for n, mean in zip(norms, means, strict=True):
        n.mean_square = mean
    torch._foreach_zero_([n.squares for n in norms])
    torch._foreach_zero_([n.tokens for n in norms])
