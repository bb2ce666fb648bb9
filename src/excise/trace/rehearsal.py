"""Rehearse a cut on fake tensors before a real weight is touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from excise.errors import ExampleError
from excise.trace import skeleton
from excise.trace.fake import Fakes
from excise.trace.program import Trace
from excise.trace.record import trace_on
from excise.trace.recorder import Recorder
from excise.trace.replay import Replay


@dataclass(frozen=True)
class Stage:
    """A model and the shapes of its example input; `mode` is None where real data is needed.

    `script` is what that data decided, to be decided again.
    """

    model: nn.Module
    mode: Fakes | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    script: list[tuple[str, Any]] = field(default_factory=list)

    def rehearse(
        self, shapes: Mapping[str, tuple[int, ...]], attributes: Iterable[tuple[str, str, int]]
    ) -> tuple[Trace, ExampleError | None]:
        """Run a skeleton of the cut model; returns what it did, up to the first failure.

        Args:
            shapes: tensor name -> shape after the cut, for every tensor that shrinks.
            attributes: module, attribute path, value after the cut.
        """
        memo: dict[int, Any] = {}
        with self.mode if self.mode is not None else torch.random.fork_rng(devices=[]):
            for name, tensor in skeleton.named_tensors(self.model):
                if id(tensor) in memo:
                    continue
                shape = shapes.get(name)
                if shape is not None:
                    made = torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    memo[id(tensor)] = (
                        nn.Parameter(made, requires_grad=tensor.requires_grad)
                        if is_parameter
                        else made
                    )
                elif self.mode is not None:
                    memo[id(tensor)] = self.mode.parameter(tensor)
        bones = skeleton.copied(self.model, memo)
        for module, path, new in attributes:
            skeleton.write(bones.get_submodule(module), path, new)
        recorder = Recorder(self.mode, replay=Replay(self.script))
        try:
            return trace_on(bones, recorder, self.args, self.kwargs), None
        except ExampleError as error:
            return recorder.partial(), error
