"""Lanes: many batches at the same operation, and the same results as one after the other."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

import excise
from excise.calibration import Batch, Lanes, Visit, lane
from excise.errors import ExampleError
from tests.calibration.network import doubled


def batches(count: int) -> list[Batch]:
    torch.manual_seed(1)
    return [Batch((torch.randn(2, 3, 6, 6, dtype=torch.float64),), {}) for _ in range(count)]


def test_every_batch_stops_before_the_same_operation() -> None:
    model, data = doubled(), batches(3)
    ops = excise.trace(model, *data[0].args).trace.ops
    stops = [i for i, op in enumerate(ops) if op.name in {"convolution", "linear"}]
    seen, last = [], []
    with Lanes(model, data, ops, stops) as lanes, torch.no_grad():
        for visits in lanes:
            assert len(visits) == 3
            seen.append({visit.number for visit in visits})
            last = [visit.run() for visit in visits]
    assert seen == [{stop} for stop in stops]
    with torch.no_grad():
        for made, batch in zip(last, data, strict=True):
            assert torch.equal(made, model(*batch.args))


def test_a_changed_weight_is_read_by_all_batches() -> None:
    model, data = doubled(), batches(3)
    ops = excise.trace(model, *data[0].args).trace.ops
    linear = [i for i, op in enumerate(ops) if op.name == "linear"]
    with Lanes(model, data, ops, linear) as lanes, torch.no_grad():
        next(iter(lanes))
        model.hidden.weight.zero_()
        model.hidden.bias.zero_()
        for visits in lanes:
            assert all(not visit.args[0].any() for visit in visits)


def test_the_compiler_is_as_before_whoever_ends_first() -> None:
    import torch._dynamo  # noqa: PLC0415 - loaded, so that there is a stance to change

    model, data = doubled(), batches(3)
    ops = excise.trace(model, *data[0].args).trace.ops
    with Lanes(model, data, ops, [0, 3]) as lanes, torch.no_grad():
        for _ in lanes:
            assert torch._dynamo.eval_frame._stance.stance == "force_eager"
    assert torch._dynamo.eval_frame._stance.stance == "default"


def test_settings_and_threads_are_as_before() -> None:
    model, data = doubled(), batches(2)
    ops = excise.trace(model, *data[0].args).trace.ops
    before = torch.backends.mha.get_fastpath_enabled(), threading.active_count()
    with Lanes(model, data, ops, [0, 3]) as lanes:
        lanes.advance()  # and left half way
    assert (torch.backends.mha.get_fastpath_enabled(), threading.active_count()) == before
    assert not any(module._forward_pre_hooks for module in model.modules())


class Fork(nn.Module):
    """Takes another path for negative inputs."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - the class says it
        return x.exp() if bool(x.sum() > 0) else x.sin()


def test_a_batch_on_another_path_is_refused() -> None:
    ones = torch.ones(3)
    ops = excise.trace(Fork(), ones).trace.ops
    with (
        Lanes(Fork(), [Batch((ones,), {}), Batch((-ones,), {})], ops, []) as lanes,
        pytest.raises(ExampleError, match="another path"),
    ):
        lanes.advance()


def test_a_batch_that_does_not_run_is_refused() -> None:
    model, data = doubled(), batches(2)
    ops = excise.trace(model, *data[0].args).trace.ops
    wrong = Batch((torch.randn(2, 4, 6, 6, dtype=torch.float64),), {})
    with Lanes(model, [data[0], wrong], ops, []) as lanes, pytest.raises(ExampleError):
        lanes.advance()


def test_a_late_batch_catches_up_with_what_was_changed() -> None:
    model, data = doubled(), batches(3)
    ops = excise.trace(model, *data[0].args).trace.ops
    stops = [i for i, op in enumerate(ops) if op.name in {"convolution", "linear"}]
    there, last = [], []
    with (
        Lanes(model, data, ops, stops, joins=[0, 2, len(stops)]) as lanes,
        torch.no_grad(),
    ):
        for visits in lanes:
            there.append([visit.place for visit in visits])
            if visits[0].number == stops[1]:
                model.conv1.weight.zero_()  # the late one has not run it yet
            last = [visit.run() for visit in visits]
    assert there == [[0]] * 2 + [[0, 1]] * (len(stops) - 2)
    with torch.no_grad():
        for made, batch in zip(last, data, strict=False):
            assert torch.equal(made, model(*batch.args))


def test_nothing_is_held_longer_than_it_is_wanted() -> None:
    model, data = doubled(), batches(2)
    ops = excise.trace(model, *data[0].args).trace.ops
    stops = [i for i, op in enumerate(ops) if op.name in {"convolution", "linear"}]
    first = next(i for i, op in enumerate(ops) if op.name == "relu")
    kept, old = [], list[Visit]()
    with Lanes(model, data, ops, stops, keep={first: stops[2]}) as lanes, torch.no_grad():
        for visits in lanes:
            assert all(visit.result is None and not visit.args for visit in old)
            kept.append([first in visit.kept for visit in visits])
            old = visits
    assert kept == [[False] * 2] + [[True] * 2] * 2 + [[False] * 2] * (len(stops) - 3)


def test_freed_memory_goes_back_at_every_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = doubled(), batches(3)
    ops = excise.trace(model, *data[0].args).trace.ops
    stops = [i for i, op in enumerate(ops) if op.name in {"convolution", "linear"}]
    calls, seen = [0], list[tuple[int, int]]()
    monkeypatch.setattr(lane, "give_back", lambda: calls.__setitem__(0, calls[0] + 1))
    with Lanes(model, data, ops, stops, joins=[0, 2, 2]) as lanes, torch.no_grad():
        seen.extend((len(visits), calls[0]) for visits in lanes)
    assert seen[:4] == [(1, 2), (1, 3), (3, 6), (3, 7)]  # one more for each batch that joins
