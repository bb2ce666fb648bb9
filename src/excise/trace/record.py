"""Run a model once and write down what it did.

Two watchers work together. A `Tape` (`recorder.py`), under the dispatcher, sees every tensor
operation after composite ones have been decomposed. `Calls` (`call.py`), above it, sees the Python
calls, where the sizes that a call was given still remember their origin, and keeps a few composites
(`linear`, attention, recurrent layers) whole.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten, tree_map_only

from excise.errors import ExampleError
from excise.trace import provenance, skeleton
from excise.trace.fake import Fakes
from excise.trace.output import output_leaves
from excise.trace.program import Trace
from excise.trace.recorder import Recorder
from excise.trace.replay import Replay
from excise.trace.run import run


class Example(NamedTuple):
    """The example input as a rehearsal needs it: fake where possible (`mode`)."""

    mode: Fakes | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    script: list[tuple[str, Any]]


def record(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    wide: bool = False,
    real: bool = False,
    script: list[tuple[str, Any]] | None = None,
) -> tuple[Trace, Example]:
    """Trace a model on fake tensors; where its control flow needs data, on real ones.

    Not touched: the model's weights, buffers, mode, hooks, gradients and attributes, torch's
    random state, and the inputs.

    Args:
        model: any plain module.
        args: its inputs.
        kwargs: its keyword inputs.
        wide: run every operation in float64.
        real: use real tensors in any case.
        script: what data decided in an earlier run (`Example.script`), to be decided again.

    Returns:
        The trace, and the example input as a rehearsal needs it.

    Raises:
        UnsupportedModelError: what was passed is not a plain module.
        ExampleError: the model does not run on these inputs.
    """
    skeleton.check(model)
    error: ExampleError | None = None
    if not real:
        mode = Fakes()
        thin, thinner = tree_map_only(
            Tensor, lambda t: mode.from_tensor(t.detach(), static_shapes=True), (args, kwargs)
        )
        try:
            found = trace_on(skeleton.fake(model, mode), Recorder(mode, wide=wide), thin, thinner)
            return found, Example(mode, thin, thinner, [])
        except ExampleError as fake:
            error = fake
    own, named = tree_map_only(Tensor, lambda t: t.detach().clone(), (args, kwargs))
    recorder = Recorder(None, wide=wide, replay=Replay(script))
    try:
        with torch.random.fork_rng(devices=[]):
            found = trace_on(skeleton.copied(model, {}), recorder, own, named)
    except ExampleError as failed:
        raise failed from error
    return found, Example(None, own, named, recorder.replay.seen)


def trace_on(
    bones: nn.Module,
    recorder: Recorder,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Trace:
    """Trace a copy that may be changed: attributes are planted with provenance, then it runs."""
    provenance.Run.number += 1
    skeleton.plant(bones)
    parameters = {id(p) for p in bones.parameters()}
    buffers = {id(b) for b in bones.buffers()}
    for name, tensor in skeleton.named_tensors(bones):
        known = "buffer" if id(tensor) in buffers else "attribute"
        role = "parameter" if id(tensor) in parameters else known
        recorder.names[name] = recorder.see(tensor, role, name)
    for tensor in tree_flatten((args, kwargs))[0]:
        if isinstance(tensor, Tensor):
            recorder.see(tensor, "input")
    provenance.guards.clear()
    provenance.bounds.clear()
    with recorder.fakes or contextlib.nullcontext():
        out = run(bones, recorder, args, kwargs)
    recorder.outputs = [
        (keystr(path) or "output", recorder.see(value, "constant"))
        for path, value in output_leaves(out)
    ]
    return recorder.partial()
