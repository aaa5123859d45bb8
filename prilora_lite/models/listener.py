"""What the pruner hears of a model while it trains: the inputs of its adapted layers, and the gradients of their A."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from prilora_lite.importance import InputNorms, sum_of_squares
from prilora_lite.lora import LoRALinear
from prilora_lite.models.layers import PeftLayer, stacked
from prilora_lite.models.tokens import Hook, RealTokens


class Listener:
    """Counts the inputs of a model's adapted layers as they pass, each layer's in its own :class:`InputNorms`.

    Only passes that train are counted: in training mode, with gradients and the adapter on.

    Args:
        model: the whole model.
        layers: its adapted layers, see :func:`~.layers.lora_layers`.
        keeps_gradients: whether to keep the gradient of each A, which is gone after ``optimizer.zero_grad()``.

    Attributes:
        norms: the statistics of each layer, by its name.
        gradients: of each A in the latest step, by the layer's name.

    Raises:
        ValueError: see :class:`RealTokens`.
    """

    def __init__(self, model: nn.Module, layers: dict[str, LoRALinear | PeftLayer], keeps_gradients: bool) -> None:
        self.norms = {name: InputNorms(layer.in_features, layer.lora_A.device) for name, layer in layers.items()}
        self._tokens = RealTokens(model)
        self._latest: tuple[Tensor, str, tuple[Tensor, int]] | None = None  # an input, its source, its squares
        self.gradients: dict[str, Tensor] = {}
        self._hooks = list(self._tokens.hooks)
        for name, layer in layers.items():
            module = model.get_submodule(name)
            self._hooks.append(module.register_forward_pre_hook(Hook(self._counter(name, module))))
            if keeps_gradients:
                self._hooks.append(layer.lora_A.register_post_accumulate_grad_hook(Hook(self._keeper(name))))

    def stop(self) -> None:
        """Listen no more. What was counted stays."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def end_step(self, step: int) -> list[float]:
        """How many tokens each layer has seen in an optimizer step, over all processes; it waits for the device once.

        Args:
            step: number of the optimizer step, for the message.

        Raises:
            RuntimeError: no layer has seen a token.
            ValueError: an input was not finite.
        """
        self._latest = None
        self._sum_over_processes()
        tokens = stacked(norms.tokens for norms in self.norms.values())
        finite = stacked(norms.squares.isfinite().all() for norms in self.norms.values())
        tokens, finite = torch.stack([tokens, finite.float()]).tolist()
        if not any(tokens):
            raise RuntimeError(
                "no forward pass in training mode since the last step: call model.train() before it, "
                "and make the Pruner before training starts"
            )
        if not all(finite):
            bad = [name for name, ok in zip(self.norms, finite, strict=True) if not ok]
            raise ValueError(
                f"NaN or infinity in the input of {bad[0]} and {len(bad) - 1} more layers in optimizer step "
                f"{step}: check the batch, then try a lower learning rate or float32"
            )
        return tokens

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """The statistics of all layers, by their names."""
        return {
            name: {"squares": n.squares.clone(), "tokens": n.tokens.clone(), "mean_square": n.mean_square}
            for name, n in self.norms.items()
        }

    def load_state_dict(self, state: dict[str, dict[str, Any]]) -> None:
        """Go on from the statistics that :meth:`state_dict` gave for the same layers."""
        for name, stored in state.items():
            norms = self.norms[name]
            device = norms.squares.device
            norms.squares = stored["squares"].to(device, copy=True)
            norms.tokens = stored["tokens"].to(device, copy=True)
            norms.mean_square = None if stored["mean_square"] is None else stored["mean_square"].to(device)

    def _counter(self, name: str, module: nn.Module) -> Callable[[nn.Module, tuple], None]:
        """A hook that counts a layer's input."""
        source, norms, tokens = self._tokens.source_of(name, module), self.norms[name], self._tokens
        may_be_off = hasattr(module, "disable_adapters")  # PEFT's, in a pass of the base alone

        def count(module: nn.Module, args: tuple) -> None:
            counts = module.training and torch.is_grad_enabled() and not (may_be_off and module.disable_adapters)
            if not counts or not tokens.holds_tokens(name):
                return
            x = args[0]
            if torch.compiler.is_compiling():
                norms.add(x, tokens.rows(name, source, x))  # the compiler sees for itself what is squared twice
                return
            if self._latest is None or self._latest[0] is not x or self._latest[1] != source:
                self._latest = x, source, sum_of_squares(x, tokens.rows(name, source, x))
            norms.add_sum(*self._latest[2])  # query, key and value read one tensor: squared once, counted by each

        return count

    def _keeper(self, name: str) -> Callable[[Tensor], None]:
        """A hook that keeps the gradient of a layer's A."""

        def keep(lora_A: Tensor) -> None:
            self.gradients[name] = lora_A.grad

        return keep

    def _sum_over_processes(self) -> None:
        """Under data parallelism each process sees different inputs; with the sums over all, they prune alike."""
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
            return
        counts = [part for norms in self.norms.values() for part in (norms.squares, norms.tokens)]
        device = counts[0].device  # a model may be spread over several
        flat = torch.cat([part.flatten().to(device) for part in counts])
        distributed.all_reduce(flat)
        for part, total in zip(counts, flat.split([part.numel() for part in counts]), strict=True):
            part.copy_(total.view(part.shape))
