"""Pruning during training: accumulated input norms, importance, and the pruner that uses both."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from prilora_lite.config import IMPORTANCE_RULES, check_pruning, check_ratio
from prilora_lite.models.structure import (
    in_features,
    lora_layers,
    mask_entries,
    reads_the_encoder,
    shares_inputs,
    source_of_input,
    unwrapped,
)


class InputNorms:
    r"""Running mean square of each input feature of one layer.

    .. math:: q_j = \frac{1}{T}\sum_t x_{tj}^2, \qquad s_j \leftarrow \beta s_j + (1-\beta)\,q_j

    The sum runs over the T non-padding tokens of the whole global batch of one optimizer step: the micro-batches of
    gradient accumulation weigh by their tokens, and a forward pass run twice (gradient checkpointing) adds twice to
    both sum and count. The first fold sets s = q. Squares are summed in float32, or float64 where the input is float64.

    Args:
        in_features: n, the number of input features.
        device: where the statistics live.

    Source: norm of the input as in Wanda (Sun et al. 2023); the moving average per step is our choice.
    """

    def __init__(self, in_features: int, device: torch.device | str = "cpu") -> None:
        self.squares = torch.zeros(in_features, device=device)  # sum over tokens since the last fold
        self.tokens = torch.zeros((), device=device)
        self.mean_square: Tensor | None = None  # s, once folded

    @torch.no_grad()
    def add(self, x: Tensor, rows: Tensor | None = None) -> None:
        """Count one input x (..., n); ``rows`` are the places of its real tokens when flattened, None where all are.

        Real tokens are picked out, not multiplied by a mask: 0 times the NaN of a padded place would be NaN.
        """
        x = x.flatten(0, -2)
        counted = x if rows is None else x.index_select(0, rows)
        counted = counted if x.dtype == torch.float64 else counted.float()
        squares = counted.square() if counted is x else counted.square_()  # what is a copy already needs no other
        self.squares = self.squares.to(squares) + squares.sum(0)
        self.tokens = self.tokens.to(x.device) + counted.shape[0]

    @torch.no_grad()
    def fold(self, decay: float) -> None:
        """Take what was counted since the last fold, one token at least, into the moving average; count anew."""
        q = self.squares / self.tokens
        self.mean_square = q if self.mean_square is None else decay * self.mean_square + (1 - decay) * q
        self.squares, self.tokens = torch.zeros_like(self.squares), torch.zeros_like(self.tokens)


def importance(
    lora_A: Tensor, mean_square: Tensor | None, rule: str = "magnitude_input", generator: torch.Generator | None = None
) -> Tensor:
    r"""How much each entry of A matters.

    .. math:: S_{ij} = |A_{ij}|\,\sqrt{s_j}

    Args:
        lora_A: A, (r, n).
        mean_square: s, (n,), the accumulated mean square of the layer's input; used by ``magnitude_input`` only.
        rule: ``magnitude_input`` as above, ``magnitude`` for :math:`|A_{ij}|`, ``random`` for uniform noise.
        generator: source of the noise (on the CPU, so that every device draws the same).

    Returns:
        S, (r, n), not negative.

    Raises:
        ValueError: an unknown rule, or ``magnitude_input`` without statistics.

    Source: PRILoRA (Benedek & Wolf 2024) combines magnitude and accumulated input; this product as in Wanda.
    """
    if rule == "magnitude":
        return lora_A.detach().abs()
    if rule == "random":
        return torch.rand(lora_A.shape, generator=generator).to(lora_A)
    if rule != "magnitude_input":
        raise ValueError(f"rule must be one of {', '.join(IMPORTANCE_RULES)}, got {rule!r}")
    if mean_square is None:
        raise ValueError("rule 'magnitude_input' needs the input's mean square, and none has been accumulated yet")
    return lora_A.detach().abs() * mean_square.to(lora_A).sqrt()


def keep_mask(scores: Tensor, ratio: float, scope: str = "row") -> Tensor:
    r"""Which entries survive: all but the k least important ones.

    .. math:: k = \lfloor \mathrm{ratio}\cdot n + 10^{-9} \rfloor

    Args:
        scores: S, (r, n).
        ratio: share to prune, in [0, 1).
        scope: ``row``: k of the n entries in each row; ``matrix``: k of the r n entries of the whole matrix.

    Returns:
        Boolean (r, n), True where the entry survives. Of equal scores the lower index is pruned first.

    Raises:
        ValueError: a ratio out of range.

    Source: comparing within a row is Wanda's; the rounding and the ties are our choice.
    """
    check_ratio(ratio)
    rows = scores if scope == "row" else scores.reshape(1, -1)
    k = int(ratio * rows.shape[1] + 1e-9)
    least = rows.argsort(dim=1, stable=True)[:, :k]
    return torch.ones_like(rows, dtype=torch.bool).scatter_(1, least, False).view(scores.shape)


class Pruner:
    r"""Prunes every A of an adapted model, this library's or PEFT's LoRA, again and again while it trains.

    Made once, before training, it listens to the layers' inputs. Call :meth:`step` after each optimizer step: it folds
    the statistics, and every N-th time it prunes. Call :meth:`prune` in the last step, before the model is evaluated
    and saved. Pruned entries go on training and may come back, unless ``regrow`` is off: then the mask of the first
    prune stays, and with ``interval=1`` it holds from the first step on.

    Only forward passes in training mode count, and of them only the tokens that the model's ``attention_mask`` keeps.
    With gradient checkpointing, run the backward pass of one forward pass before the next forward pass: the repeated
    layers are counted by the mask that came in last. Of a decoder beside an encoder the ``decoder_attention_mask`` says
    which tokens are real; without it, as collators for T5 and BART leave it, all but padding tokens after the first.

    Args:
        model: a model with at least one :class:`~.lora.LoRALinear`, or one of PEFT's with LoRA: there the A of the
            active adapter is pruned. It may be inside ``DistributedDataParallel`` or ``torch.compile``.
        ratio: share of A pruned, in [0, 1).
        interval: N, optimizer steps from one prune to the next.
        decay: :math:`\beta` of the moving average of the inputs' mean squares.
        rule: importance rule, see :func:`importance`.
        scope: ``row`` or ``matrix``, see :func:`keep_mask`.
        regrow: whether a pruned entry may return; otherwise the mask of the first prune is permanent.
        seed: of the noise of rule ``random``, which is drawn once, here, and kept. (A mask drawn anew at each prune
            would zero trained weights in the last step: no fair control for a rule that chooses much the same entries
            each time.)

    Attributes:
        history: for each prune that chose entries its ``step``; the share of zeros in all A ``before`` and ``after``
            it; and its ``mass``, the share of A's squared norm that it removed, over all layers.

    Raises:
        TypeError: no model.
        ValueError: no layer to prune, a value out of range, or weights that FSDP, DeepSpeed or ``nn.DataParallel``
            splits, copies or replicates.

    Source: PRILoRA (Benedek & Wolf 2024) prunes A throughout training; interval, regrowth and ratio are our reading.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        ratio: float = 0.5,
        interval: int = 40,
        decay: float = 0.9,
        rule: str = "magnitude_input",
        scope: str = "row",
        regrow: bool = True,
        seed: int = 0,
    ) -> None:
        check_pruning(ratio, interval, decay, rule, scope)
        self._model = model = unwrapped(model)
        self.layers = lora_layers(model)
        if not self.layers:
            raise ValueError(
                "the model has no LoRALinear to prune, and no LoRA of PEFT's that is active; adapt(model, config) first"
            )
        self.settings = {
            "ratio": ratio, "interval": interval, "decay": decay, "rule": rule, "scope": scope, "regrow": regrow
        }  # fmt: skip
        self.ratio, self.interval, self.decay = ratio, interval, decay
        self.rule, self.scope, self.regrow = rule, scope, regrow
        self.steps = 0
        self.history: list[dict[str, float]] = []
        self._pruned_at: int | None = None
        self._masks: dict[str, Tensor] = {}  # permanent masks, where regrowth is off
        generator = torch.Generator().manual_seed(seed)  # on the CPU, so that every device and process draws the same
        drawn = self.layers if rule == "random" else {}
        self._noise = {n: importance(l.lora_A, None, "random", generator).cpu() for n, l in drawn.items()}
        # Of the forward pass under way, for each kind of tokens: the attention mask's shape, and where real tokens are
        self._tokens: dict[str, tuple[torch.Size, Tensor | None] | None] = {}

        modules = dict(model.named_modules())
        shared = shares_inputs(model)
        self._source = {name: source_of_input(name, modules) if shared else name for name in self.layers}
        self.norms = {
            source: InputNorms(in_features(modules[source]), next(modules[source].parameters()).device)
            for source in dict.fromkeys(self._source.values())
        }
        entries = mask_entries(model)
        kinds = {module: kind for kind, entry in entries.items() for module in entry.modules()}
        self._hooks = [
            entry.register_forward_pre_hook(self._mask_reader(kind, entry), with_kwargs=True)
            for kind, entry in entries.items()
        ]
        for source in self.norms:
            kind = "memory" if reads_the_encoder(source) else kinds.get(modules[source], "head")
            self._hooks.append(modules[source].register_forward_pre_hook(self._tap(source, kind)))

    def step(self) -> None:
        """Fold the statistics of one optimizer step, and prune if the interval is over. Call after ``optimizer.step``.

        Raises:
            RuntimeError: no layer has seen a token since the last step, or a layer is merged.
            ValueError: an input, or a weight of A, is not finite, or the model has been sharded.
        """
        if self.steps == 0:
            unwrapped(self._model)  # it may have been sharded since
        self._sum_over_processes()
        tokens = torch.stack([norms.tokens for norms in self.norms.values()])
        finite = torch.stack([norms.squares.isfinite().all() for norms in self.norms.values()])
        tokens, finite = torch.stack([tokens, finite.float()]).tolist()  # one wait for the device
        if not any(tokens):
            raise RuntimeError(
                "no forward pass in training mode since the last step: call model.train() before it, "
                "and make the Pruner before training starts"
            )
        if not all(finite):
            bad = [name for name, ok in zip(self.norms, finite, strict=True) if not ok]
            raise ValueError(
                f"NaN or infinity in the input of {bad[0]} and {len(bad) - 1} more layers in optimizer step "
                f"{self.steps + 1}: check the batch, then try a lower learning rate or float32"
            )
        for norms, seen in zip(self.norms.values(), tokens, strict=True):
            if seen:
                norms.fold(self.decay)
        self.steps += 1
        if self.steps % self.interval == 0:
            self.prune()
        elif self._masks:
            self._apply_masks()

    @torch.no_grad()
    def prune(self) -> None:
        """Zero the least important entries of every A now. A second call in the same step changes nothing.

        Raises:
            RuntimeError: nothing has been accumulated yet, for a layer or for all, or a layer is merged.
            ValueError: a weight of A is not finite.
        """
        if self.pruned_at == self.steps:
            return
        if self.steps == 0:
            raise RuntimeError("no statistics yet: call step() after each optimizer step, then prune()")
        for name, layer in self.layers.items():
            if layer.merged:
                raise RuntimeError(f"{name} is merged: its pruned A would not match its weight; call unmerge() first")
        if self._masks:
            self._apply_masks()
            self._pruned_at = self.steps
            return
        before = self.sparsity()
        masks = {}
        for name, layer in self.layers.items():
            mean_square = self.norms[self._source[name]].mean_square
            if mean_square is None and self.rule == "magnitude_input":
                raise RuntimeError(
                    f"in {self.steps} steps no forward pass in training has reached {name}, so nothing says which of "
                    "its inputs matter: leave it out by naming targets, or choose the rule 'magnitude'"
                )
            noise = self._noise.get(name)
            scores = importance(layer.lora_A, mean_square, self.rule) if noise is None else noise.to(layer.lora_A)
            if not (scores.isfinite().all() and layer.lora_A.isfinite().all()):
                raise ValueError(f"NaN or infinity in lora_A of {name} at step {self.steps}: lower the learning rate")
            masks[name] = keep_mask(scores, self.ratio, self.scope)
        squares = {name: self.layers[name].lora_A.square() for name in masks}
        sums = [[square.sum(), (square * ~masks[name]).sum()] for name, square in squares.items()]
        norm, pruned = torch.tensor(sums).sum(0).tolist()
        for name, mask in masks.items():
            self.layers[name].lora_A.masked_fill_(~mask, 0)
        if not self.regrow:
            self._masks = masks
        mass = pruned / norm if norm else 0.0
        self.history.append({"step": self.steps, "before": before, "after": self.sparsity(), "mass": mass})
        self._pruned_at = self.steps

    @property
    def pruned_at(self) -> int | None:
        """Step of the latest prune, None before the first."""
        return self._pruned_at

    @torch.no_grad()
    def sparsity(self) -> float:
        """Share of zeros in all A, in [0, 1]."""
        zeros = torch.stack([(layer.lora_A == 0).sum() for layer in self.layers.values()]).sum().item()
        return zeros / sum(layer.lora_A.numel() for layer in self.layers.values())

    def detach(self) -> None:
        """Stop listening to the model. What was accumulated stays."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs: statistics, step, masks, history, noise, and the settings."""
        return {
            "settings": dict(self.settings),
            "layers": self._shapes(),
            "steps": self.steps,
            "pruned_at": self._pruned_at,
            "history": [dict(entry) for entry in self.history],
            "norms": {
                name: {"squares": n.squares, "tokens": n.tokens, "mean_square": n.mean_square}
                for name, n in self.norms.items()
            },
            "masks": dict(self._masks),
            "noise": dict(self._noise),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict` of a pruner over the same layers with the same settings.

        Raises:
            ValueError: other settings, other layers or other shapes; nothing is changed then.
        """
        if state["layers"] != self._shapes():
            raise ValueError("the saved pruner belongs to another model: its lora_A have other names or shapes")
        if state["settings"] != self.settings:
            differ = [key for key in self.settings if state["settings"].get(key) != self.settings[key]]
            raise ValueError(
                "the saved pruner had other settings: "
                + ", ".join(f"{key}={state['settings'].get(key)!r}, now {self.settings[key]!r}" for key in differ)
            )
        if self._noise and "noise" not in state:
            raise ValueError(
                "the saved pruner drew random scores anew at each prune; they are drawn once a run now: start anew"
            )
        self.steps = state["steps"]
        self.history = [dict(entry) for entry in state["history"]]
        latest = self.history[-1]["step"] if self.history else None
        self._pruned_at = state.get("pruned_at", latest)  # older states have it in their history alone
        self._noise = {name: noise.cpu() for name, noise in state.get("noise", {}).items()}
        self._masks = {name: mask.to(self.layers[name].lora_A.device) for name, mask in state["masks"].items()}
        for name, saved in state["norms"].items():
            norms = self.norms[name]
            device = norms.squares.device
            norms.squares, norms.tokens = saved["squares"].to(device), saved["tokens"].to(device)
            norms.mean_square = None if saved["mean_square"] is None else saved["mean_square"].to(device)

    @torch.no_grad()
    def _apply_masks(self) -> None:
        for name, mask in self._masks.items():
            self.layers[name].lora_A.masked_fill_(~mask, 0)

    def _shapes(self) -> dict[str, list[int]]:
        return {name: list(layer.lora_A.shape) for name, layer in self.layers.items()}

    def _mask_reader(self, kind: str, entry: nn.Module) -> Any:
        signature = inspect.signature(entry.forward)

        def read_masks(module: nn.Module, args: tuple, kwargs: dict) -> None:
            if module.training:
                given = {**signature.bind_partial(*args).arguments, **kwargs}
                mask = given.get("attention_mask")
                if mask is None and kind == "decoder":
                    mask = _without_padding(given.get("input_ids"), getattr(entry.config, "pad_token_id", None))
                self._tokens[kind] = _real_tokens(mask)
                self._tokens["memory"] = _real_tokens(given.get("encoder_attention_mask"))
                self._tokens["head"] = self._tokens[kind]  # behind a decoder its own: it runs last

        return read_masks

    def _tap(self, name: str, kind: str) -> Any:
        def count(module: nn.Module, args: tuple) -> None:
            if module.training:
                if kind not in self._tokens:
                    raise RuntimeError(
                        f"{name} ran, but not the module of the model where the attention mask comes in, or that one "
                        "in evaluation mode, so padding can't be told from tokens: call the whole model, after train()"
                    )
                x = args[0]
                shape, rows = self._tokens[kind] or (x.shape[:-1], None)
                if x.shape[:-1] not in (shape, (shape.numel(),)):  # OPT's feed-forward has its tokens in one row
                    if kind != "head":
                        raise ValueError(
                            f"the input of {name} is {tuple(x.shape)}, the attention mask {tuple(shape)}: they must "
                            "agree in (batch, tokens) for padding to be told from tokens; leave layers behind the "
                            "pooling out of the targets"
                        )
                    rows = None  # behind the pooling there is no padding
                self.norms[name].add(x, rows)

        return count

    def _sum_over_processes(self) -> None:
        """Under data parallelism every process sees other inputs; summed, all prune alike."""
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
            return
        flat = torch.cat([part.flatten() for n in self.norms.values() for part in (n.squares, n.tokens)])
        distributed.all_reduce(flat)
        for norms in self.norms.values():
            n = norms.squares.numel()
            norms.squares, norms.tokens, flat = flat[:n].clone(), flat[n].clone(), flat[n + 1 :]


def _real_tokens(mask: Tensor | None) -> tuple[torch.Size, Tensor | None] | None:
    """An attention mask's shape (batch, tokens), and the places of its ones when flattened; None where all are ones."""
    if mask is None:
        return None
    if mask.ndim != 2:
        raise ValueError(f"the pruner counts tokens by a mask of shape (batch, tokens), got one of {tuple(mask.shape)}")
    rows = mask.flatten().nonzero().squeeze(1)
    return mask.shape, rows if len(rows) < mask.numel() else None


def _without_padding(ids: Tensor | None, padding: int | None) -> Tensor | None:
    """The mask of a decoder that was given none; its first token is real: T5 starts with a padding token."""
    if ids is None or padding is None:
        return None
    real = ids != padding
    real[:, :1] = True
    return real
