"""What each of several processes does in the tests, with its share of the data."""

from __future__ import annotations

import datetime as dt
import importlib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed import FileStore  # type: ignore[attr-defined]

import excise
from excise.budget import Attempt
from excise.calibration import Batch, batches, share
from excise.ranks import present, together
from excise.recover import reconstruct
from excise.recover.reconstruct import _average
from excise.refit import recalibrate, refit
from tests.branch.network import Residual, seeded
from tests.calibration.network import Doubled
from tests.calibration.recurrent import sequences

CUT = {"conv1": range(10), "hidden": range(10)}


def network(seed: int = 0) -> Doubled:
    torch.manual_seed(seed)
    return Doubled(width=24).eval()


def shards(size: int) -> list[list[Tensor]]:
    """Batches of each rank: neither as many everywhere nor of one size."""
    source = torch.Generator().manual_seed(7)

    def images(count: int) -> Tensor:
        return torch.randn(count, 3, 6, 6, dtype=torch.float64, generator=source)

    return [[images(5 + (rank + i) % 3) for i in range(2 + 3 * rank % 4)] for rank in range(size)]


def union(size: int) -> list[Tensor]:
    """The same batches in one process: one of each rank in turn."""
    every = shards(size)
    longest = max(map(len, every))
    return [mine[i] for i in range(longest) for mine in every if i < len(mine)]


def flat(found: Any) -> dict[str, Any]:
    """A model's tensors, scores or curves, as plain data."""
    if isinstance(found, nn.Module):
        return {name: tensor.clone() for name, tensor in found.state_dict().items()}
    if isinstance(found, excise.Scores):
        return dict(found.values)
    return {name: torch.tensor(curve.cost) for name, curve in found.values.items()}


def pruned(data: Any, **options: Any) -> dict[str, Any]:
    options = {"keep_macs": 0.6, "latency": False, **options}
    found = excise.prune(network(), union(1)[0][:2], calibration=data, **options)
    return {
        "model": flat(found.model),
        "plan": found.plan.to_json(),
        "refit": found.refit,
        "verdict": found.verdict,
        "report": found.report.kept(),
    }


def cut_by_hand() -> tuple[nn.Module, nn.Module, excise.Plan]:
    model = network()
    plan = excise.plan_units(excise.trace(model, union(1)[0][:2]), CUT)
    return model, excise.remove(model, plan), plan


def refitted(data: Any) -> dict[str, Any]:
    model, small, plan = cut_by_hand()
    refit(model, small, plan, [Batch((x,), {}) for x in data], rows=30)
    return flat(small)


def recurrent(data: Any) -> dict[str, Any]:
    """Pixels as steps: costs of a recurrent layer's units, and what a refit makes of the rest."""
    steps = [Batch((x.flatten(2).mT,), {}) for x in data]
    model = sequences("GRU", bidirectional=True)
    graph = excise.trace(model, steps[0].args[0][:2])
    curves = excise.scores.obs(model, graph, steps, rows=60)
    plan = excise.plan_units(graph, {name: range(3) for name in curves.values})
    small = excise.remove(model, plan)
    refit(model, small, plan, steps, rows=60)
    return {**flat(curves), **flat(small)}


def recalibrated(data: Any) -> dict[str, Any]:
    model = network(3)
    assert recalibrate(model, [Batch((x,), {}) for x in data]) == 1
    return flat(model)


def rebuilt(data: Any) -> dict[str, Any]:
    model, small, plan = cut_by_hand()
    report = reconstruct(model, small, plan, [Batch((x,), {}) for x in data], steps=6)
    return {**flat(small), "before": report.before, "after": report.after}


def scored(name: str) -> Callable[[Any], dict[str, Any]]:
    def scores(data: Any) -> dict[str, Any]:
        model, x = network(), union(1)[0][:2]
        score = excise.scores.CALIBRATED[name]
        few = {"rows": 30} if name == "obs" else {}
        return flat(score(model, excise.trace(model, x), [Batch((x,), {}) for x in data], **few))

    return scores


def zeroed(data: Any) -> dict[str, Any]:
    found = excise.prune(network(), union(1)[0], sparsity=0.5, calibration=data, latency=False)
    return flat(found.model)


def scheduled(data: Any) -> dict[str, Any]:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(union(1)[0]).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    x = union(1)[0][:2]
    for _ in excise.schedule(
        model, x, keep_macs=0.5, steps=2, calibration=data, optimizer=optimizer
    ):
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return flat(model)


def shortened(data: Any) -> dict[str, Any]:
    """A network of which two blocks do nothing."""
    model = seeded(lambda: Residual(4, 8, 12)).double()
    for name in ("blocks.1.bn2.weight", "blocks.2.bn2.weight"):
        model.get_parameter(name).data.zero_()
    options: dict[str, Any] = {"keep_macs": 0.4, "latency": False, "depth": True}
    found = excise.prune(model, union(1)[0][:2], calibration=data, **options)
    assert found.plan.branches
    return {**flat(found.model), "apart": torch.tensor([r.apart for r in found.rivals])}


EQUAL: dict[str, Callable[[Any], dict[str, Any]]] = {
    "prune": lambda data: pruned(data)["model"],
    "prune, by name": lambda data: pruned(data, criterion="flap")["model"],
    "some samples": lambda data: pruned(data, samples=20)["model"],
    "refit": refitted,
    "recurrent": recurrent,
    "recalibrate": recalibrated,
    "zeros": zeroed,
    "schedule": scheduled,
    "depth": shortened,
    **{name: scored(name) for name in excise.scores.CALIBRATED},
}
"""Things that come out the same in one process on all the data, up to rounding."""


def choosing_for_itself(data: Any) -> dict[str, Any]:
    """Each rank measures something else, and asks its own criterion."""
    work: Any = importlib.import_module("excise.prune.work")
    prune: Any = importlib.import_module("excise.prune.prune")
    rank = present().rank if distributed.get_rank() < 0 else distributed.get_rank()

    def measured(
        model: Any, graph: Any, scores: Any, *, asked: Any, options: Any, example: Any
    ) -> Any:
        del model, asked, options, example
        plan = excise.plan(graph, scores, keep_macs=0.5 + 0.1 * rank)
        found: Any = None
        return [Attempt(1.0, plan, found)]

    def criterion(model: nn.Module, graph: Any) -> Any:
        return excise.scores.random(model, graph, seed=rank)

    real, report = work.attempted, prune.reported
    work.attempted, prune.reported = measured, lambda *_, **__: None
    try:
        found = excise.prune(
            network(), data[0][:2], speedup=1.5, criterion=criterion, calibration=data
        )
    finally:
        work.attempted, prune.reported = real, report
    return {**flat(found.model), "plan": found.plan.to_json()}


def of_its_own_mind(data: Any) -> dict[str, Any]:
    """A criterion that says something else on each rank."""
    rank = distributed.get_rank()
    return pruned(data, criterion=lambda _, graph: excise.scores.random(_, graph, seed=rank))


def rounding_its_own_way(data: Any) -> dict[str, Any]:
    """Each rank solves layers as another machine would."""
    rank, found = distributed.get_rank(), {}
    for name, act in (("refit.work", refitted), ("zero.zero", zeroed)):
        module: Any = importlib.import_module(f"excise.{name}")
        real = module.solve

        def solve(*args: Any, real: Any = real, **kwargs: Any) -> Any:
            made = real(*args, **kwargs)
            return made and made._replace(matrix=made.matrix * (1 + 1e-6 * rank))

        module.solve = solve
        try:
            found[name] = act(data)
        finally:
            module.solve = real
    return found


SAME: dict[str, Callable[[Any], dict[str, Any]]] = {
    **EQUAL,
    "reconstruct": rebuilt,
    "prune and reconstruct": lambda data: pruned(data, reconstruct=4)["model"],
    "a clock": choosing_for_itself,
    "a mind": of_its_own_mind,
    "a machine": rounding_its_own_way,
}
"""Things that come out the same on all ranks, bit for bit."""
FEW = ("prune", "refit", "recurrent", "recalibrate", "zeros", "obs", "fisher", "reconstruct")
"""Those that are done with more than two ranks, too."""


def _broken_data(rank: int, data: Any) -> Any:
    return pruned([*data, torch.zeros(2, 4, 6, 6)] if rank == 1 else data)


def _no_data(rank: int, data: Any) -> Any:
    return pruned([] if rank == 1 else data)


def _another_model(rank: int, data: Any) -> Any:
    model = network()
    if rank == 1:
        model.norm.running_var.view(-1)[3] += 1e-12  # type: ignore[union-attr]
    return excise.prune(model, data[0][:2], keep_macs=0.6, calibration=data)


def _another_shape(rank: int, data: Any) -> Any:
    model = Doubled(width=24 + 2 * rank).eval()
    return excise.prune(model, data[0][:2], keep_macs=0.6, calibration=data)


def _another_function(rank: int, data: Any) -> Any:
    return pruned(data) if rank == 1 else recalibrate(network(), [Batch((x,), {}) for x in data])


def _another_option(rank: int, data: Any) -> Any:
    return pruned(data, criterion="wanda" if rank == 1 else "obs")


def _its_own_code(rank: int, data: Any) -> Any:
    def criterion(model: nn.Module, graph: Any) -> Any:
        if rank == 1:
            raise ZeroDivisionError("in a criterion")
        return excise.scores.magnitude(model, graph)

    return pruned(data, criterion=criterion)


def _out_of_reach(rank: int, data: Any) -> Any:
    del rank
    return pruned(data, keep_macs=0.001)


def _late(rank: int, data: Any) -> Any:
    """One rank fails after its last exchange."""
    with together() as ranks:
        ranks.add(1.0)
        if rank == 1:
            raise ZeroDivisionError("at the end")
    return data


FAILURES: dict[str, Callable[[int, Any], Any]] = {
    "broken data": _broken_data,
    "no data": _no_data,
    "another model": _another_model,
    "another shape": _another_shape,
    "another function": _another_function,
    "another option": _another_option,
    "its own code": _its_own_code,
    "out of reach": _out_of_reach,
    "late": _late,
}


def alone(rank: int, size: int) -> dict[str, Any]:
    """One rank on its own; two of them in a group of their own; places of batches."""
    found: dict[str, Any] = {}
    if rank == 0:
        with excise.ranks(None):
            found["alone"] = pruned(union(size))["model"]
    pair = distributed.new_group([0, 1])
    if rank < 2:
        with excise.ranks(pair):
            found["pair"] = pruned(shards(2)[rank])["model"]
    try:
        with excise.ranks("all"):
            pass
    except excise.errors.RanksError as error:
        found["no group"] = str(error)
    if rank > 1:
        try:
            with excise.ranks(pair):
                pass
        except excise.errors.RanksError as error:
            found["not in it"] = str(error)
    with together():
        x = union(1)[0][:1]
        weights = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))]
        weights[0].grad = None if rank == 1 else torch.full((2,), rank + 1.0)
        _average(weights, rank != 1)
        found["gradients"] = [p.grad for p in weights]
        mine = batches(shards(size)[rank], (x,), {}, samples=12)  # enough not to be cut
        found["read"] = [batch.samples for batch in mine]
        found["share"] = share([Batch((x,), {}) for x in shards(size)[rank]])
    return found


def refused(fail: Callable[[int, Any], Any], rank: int, size: int) -> tuple[str, str]:
    """The error's class, and what it says."""
    try:
        fail(rank, shards(size)[rank])
    except Exception as error:  # noqa: BLE001 - that is what is looked at
        return type(error).__name__, str(error)
    return "", ""


def work(rank: int, size: int, folder: str) -> None:
    """Everything, one thing after the other, in one process of several."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        store=FileStore(f"{folder}/store", size),
        rank=rank,
        world_size=size,
        timeout=dt.timedelta(seconds=60),
    )
    found: dict[str, Any] = {"failures": {}}
    try:
        for name, act in SAME.items():
            if size <= 2 or name in FEW:
                found[name] = act(shards(size)[rank])
        for name, fail in FAILURES.items():
            found["failures"][name] = refused(fail, rank, size)
        found["others"] = alone(rank, size)
        found["again"] = EQUAL["prune"](shards(size)[rank])
    except BaseException:  # noqa: BLE001 - told by the test
        found["error"] = traceback.format_exc()
    torch.save(found, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()
