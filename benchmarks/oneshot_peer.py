"""Torch-Pruning at a measured budget: each of its criteria, local and global, its own way.

The settings are those of its examples: heads by number for attention, the last layer left alone,
attributes set afterwards as its scripts for BERT and LLaMA do. Its ratio is searched until what is
kept, counted as for everyone else, meets the budget. Where a network does not survive the cut of
its residual stream, only layers inside blocks are cut, and the row says so.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
from collections.abc import Callable
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from excise.trace.output import output_leaves

Loss = Callable[[nn.Module, Any, Any], Tensor]
"""(model, args of a batch, target) -> the loss of each sample."""

imp = tp.importance
CRITERIA: dict[str, Callable[[], Any]] = {
    "L1": lambda: imp.GroupMagnitudeImportance(p=1),
    "L2": lambda: imp.GroupMagnitudeImportance(p=2),
    "BN scale": imp.BNScaleImportance,
    "LAMP": imp.LAMPImportance,
    "FPGM": imp.FPGMImportance,
    "random": imp.RandomImportance,
    "activation": imp.ActivationImportance,
    "Taylor": imp.GroupTaylorImportance,
    "Hessian": imp.GroupHessianImportance,
}
SINGLE = 64  # samples whose gradients are taken one by one, for the Hessian
STEPS = 9  # of the search for the ratio
COARSEST = 0.2  # whole heads go in steps; a row says what it keeps


class Cut:
    """Cuts one network at one ratio."""

    def __init__(
        self, model: nn.Module, example: Any, batches: Any, loss: Loss, count: Callable[..., float]
    ) -> None:
        self.model, self.example, self.batches = model, example, batches
        self.loss, self.count = loss, count
        self.inner = False
        self.grads: dict[str, dict[str, Tensor]] = {}

    def at(self, criterion: str, ratio: float, *, everywhere: bool) -> nn.Module:
        """A copy, cut; `everywhere` ranks all layers together instead of each alone."""
        small = copy.deepcopy(self.model)
        importance = CRITERIA[criterion]()
        if criterion in {"Taylor", "Hessian"}:
            if criterion not in self.grads:
                self.grads[criterion] = self.gradients(single=criterion == "Hessian")
            for name, parameter in small.named_parameters():
                grad = self.grads[criterion].get(name)
                parameter.grad = None if grad is None else grad.clone()
        heads = attention(small)
        pruner = tp.pruner.BasePruner(
            small,
            example_inputs=self.example,
            importance=importance,
            global_pruning=everywhere,
            pruning_ratio=ratio,
            max_pruning_ratio=0.9,
            ignored_layers=self.ignored(small),
            num_heads=heads,
            prune_num_heads=bool(heads),
            prune_head_dims=False,
            head_pruning_ratio=ratio,
            forward_fn=lambda run, given: run(*given),
            output_transform=lambda out: [tensor for _, tensor in output_leaves(out)],
        )
        looking = getattr(importance, "compute_importance", None)
        with looking(small) if looking else contextlib.nullcontext():
            if looking:
                with torch.no_grad():
                    small(*self.batches[0][0])
            with contextlib.redirect_stdout(io.StringIO()):
                pruner.step()
        tell(small, pruner)
        small.zero_grad()
        with torch.no_grad():
            small.eval()(*self.batches[0][0])
        return small

    def gradients(self, *, single: bool) -> dict[str, Tensor]:
        """What its gradient criteria read in `.grad`, by name, taken once for all ratios.

        The mean gradient for Taylor; with `single` the mean over samples of the squared gradient,
        as its `accumulate_grad` adds it up for the Hessian.
        """
        model, seen = copy.deepcopy(self.model), 0
        if not single:
            for args, target in self.batches:
                self.loss(model, args, target).mean().backward()
            return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        total: dict[str, Tensor] = {}
        for args, target in self.batches:
            for each in self.loss(model, args, target)[: SINGLE - seen]:
                model.zero_grad()
                each.backward(retain_graph=True)
                seen += 1
                for name, p in model.named_parameters():
                    if p.grad is not None:
                        total[name] = total.get(name, torch.zeros_like(p)) + p.grad.square()
            if seen >= SINGLE:
                break
        return {name: value.detach() / seen for name, value in total.items()}

    def ignored(self, small: nn.Module) -> list[nn.Module]:
        """The last layer, tied ones, and with `inner` whatever writes to a residual stream."""
        names = [n for n, m in small.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
        out = [small.get_submodule(names[-1])]
        if self.inner:
            out += [small.get_submodule(n) for n in names if outer(n)]
        return out

    def search(self, criterion: str, keep: float, *, everywhere: bool) -> tuple[nn.Module, float]:
        """The cut whose count is nearest to `keep`, and what it keeps.

        Raises:
            Exception: what the tool or the network says where no cut runs.
        """
        low, high = (0.0, 1.0), (0.95, 0.0)
        best: tuple[float, nn.Module | None, float] = (math.inf, None, 0.0)
        errors: list[Exception] = []
        for _ in range(STEPS):
            share = (low[1] - keep) / max(1e-9, low[1] - high[1])  # as if it were linear between
            ratio = low[0] + (high[0] - low[0]) * min(0.9, max(0.1, share))
            try:
                small = self.at(criterion, ratio, everywhere=everywhere)
                kept = self.count(small)
            except Exception as error:  # noqa: BLE001 - the tool's own
                errors.append(error)
                high = (ratio, high[1])
                continue
            best = min(best, (abs(kept - keep), small, kept), key=lambda found: found[0])
            if best[0] < 0.01 * keep:
                break
            low, high = ((ratio, kept), high) if kept > keep else (low, (ratio, kept))
        if best[1] is None or best[0] > COARSEST * keep:
            if errors:
                raise errors[-1]
            raise ValueError(f"comes no nearer than {best[2]:.3f}")
        return best[1], best[2]


def outer(name: str) -> bool:
    """Layers whose output is added to a residual stream, in the networks used here."""
    return name in {"conv1", "patch", "conv_stem"} or name.endswith((
        ".conv2", "out_proj", "linear2", "conv_pwl", "o_proj", "down_proj", "output.dense",
        "conv_head",
    )) or (name.startswith("blocks.0.") and name.endswith("conv_pw"))  # fmt: skip


def attention(model: nn.Module) -> dict[nn.Module, int]:
    """Projections with their numbers of heads, as the tool's examples give them."""
    found: dict[nn.Module, int] = {}
    module: Any
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            found[module] = module.num_heads
        elif hasattr(module, "query") and hasattr(module, "num_attention_heads"):
            found |= dict.fromkeys((module.query, module.key, module.value),
                                   module.num_attention_heads)  # fmt: skip
        elif hasattr(module, "q_proj") and hasattr(module, "config"):
            found[module.q_proj] = module.config.num_attention_heads
            found |= dict.fromkeys((module.k_proj, module.v_proj),
                                   module.config.num_key_value_heads)  # fmt: skip
    return found


def tell(model: nn.Module, pruner: Any) -> None:
    """Set the attributes that the tool's scripts set after a cut."""
    module: Any
    for module in model.modules():
        if hasattr(module, "query") and hasattr(module, "num_attention_heads"):
            module.num_attention_heads = pruner.num_heads[module.query]
            module.attention_head_size = module.query.out_features // module.num_attention_heads
            module.all_head_size = module.query.out_features
        elif hasattr(module, "q_proj") and hasattr(module, "num_key_value_groups"):
            q, k = pruner.num_heads[module.q_proj], pruner.num_heads[module.k_proj]
            module.num_key_value_groups = q // k
