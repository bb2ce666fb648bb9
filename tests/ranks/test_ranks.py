"""Several processes, each with a share of the data: one result, and no one left waiting."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing import spawn  # type: ignore[attr-defined]

import excise
from excise.calibration import Batch, Share, share
from excise.errors import RanksError
from excise.ranks import Ranks, _sum, jointly, present, together
from tests.ranks.work import EQUAL, FAILURES, FEW, SAME, network, shards, union, work

SIZES = [2, 4]


def both(names: Iterable[str]) -> pytest.MarkDecorator:
    """Each name with two ranks, and those in FEW with four."""
    pairs = [(size, name) for size in SIZES for name in names if size == SIZES[0] or name in FEW]
    ids = [f"{size} ranks-{name}" for size, name in pairs]
    return pytest.mark.parametrize(("every", "name"), pairs, indirect=["every"], ids=ids)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Any]:
    """Starts so many processes, once: all is done in one go."""

    @functools.cache
    def start(size: int) -> list[dict[str, Any]]:
        folder = tmp_path_factory.mktemp(f"ranks{size}")
        spawn(work, (size, str(folder)), size)
        found = [torch.load(folder / f"{r}.pt", weights_only=False) for r in range(size)]
        for rank in found:
            assert "error" not in rank, rank["error"]
        return found

    return start


@pytest.fixture(params=SIZES, ids=lambda size: f"{size} ranks")
def every(request: pytest.FixtureRequest, started: Callable[[int], Any]) -> Any:
    """What each rank of a group found."""
    return started(request.param)


def alike(one: Any, two: Any, close: float = 0.0) -> bool:
    if isinstance(one, Tensor):
        if one.shape != two.shape:
            return False
        size = float(one.double().abs().max())
        return (
            torch.equal(one, two) if not close else bool(((one - two).abs() <= close * size).all())
        )
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(alike(v, two[k], close) for k, v in one.items())
    return bool(one == two)


@both(SAME)
def test_all_ranks_end_bit_for_bit_the_same(every: Any, name: str) -> None:
    assert all(alike(rank[name], every[0][name]) for rank in every[1:])


@both(EQUAL)
def test_it_is_what_one_process_makes_of_all_the_data(every: Any, name: str) -> None:
    wanted = EQUAL[name](union(len(every)))
    assert alike(every[0][name], wanted, 1e-7)


@pytest.mark.parametrize("name", ["refit", "recurrent", "recalibrate", "obs", "fisher"])
def test_a_share_alone_would_be_seen(every: Any, name: str) -> None:
    """Meta-test: one rank's own data give something else."""
    assert not alike(every[0][name], EQUAL[name](shards(len(every))[0]), 1e-4)


def test_reconstruction_helps_or_is_put_back(every: Any) -> None:
    before, after = every[0]["reconstruct"]["before"], every[0]["reconstruct"]["after"]
    assert after[-1] <= before[-1]


@pytest.mark.parametrize(
    ("name", "own", "words"),
    [
        ("broken data", "ExampleError", "rank 1: it has failed (ExampleError"),
        ("no data", "CalibrationError", "rank 1: it has failed (CalibrationError"),
        ("another model", "RanksError", "rank 1: norm.running_var of its model is not that of"),
        ("another shape", "RanksError", "rank 1: conv1.weight of its model"),
        ("another function", "RanksError", "something else than rank 0"),
        ("another option", "RanksError", "something else than rank 0"),
        ("its own code", "ZeroDivisionError", "ZeroDivisionError: in a criterion"),
        ("late", "ZeroDivisionError", "rank 1: it has failed (ZeroDivisionError: at the end)"),
    ],
)
def test_a_rank_that_fails_is_named_on_all_others(
    every: Any, name: str, own: str, words: str
) -> None:
    for number, rank in enumerate(every):
        kind, text = rank["failures"][name]
        assert kind == (own if number == 1 else "RanksError")
        if kind == "RanksError":
            assert words in text


def test_what_cannot_be_met_is_told_on_all_ranks_alike(every: Any) -> None:
    assert {rank["failures"]["out of reach"][0] for rank in every} == {"UnreachableTargetError"}
    assert len({rank["failures"]["out of reach"][1] for rank in every}) == 1
    assert every[0]["failures"].keys() == FAILURES.keys()


def test_after_all_failures_the_ranks_still_work_together(every: Any) -> None:
    assert all(alike(rank["again"], every[0]["prune"]) for rank in every)


def test_a_rank_alone_and_a_group_of_two(every: Any) -> None:
    others = [rank["others"] for rank in every]
    assert alike(others[0]["alone"], every[0]["prune"], 1e-7)
    assert alike(others[0]["pair"], others[1]["pair"])
    assert alike(others[0]["pair"], EQUAL["prune"](union(2)), 1e-7)
    assert all("no group of this process" in found["no group"] for found in others)
    assert all("no group of this process" in found["not in it"] for found in others[2:])


def test_gradients_are_averaged_over_those_that_have_any(every: Any) -> None:
    size = len(every)
    mean = sum(rank + 1 for rank in range(size) if rank != 1) / (size - 1)
    for rank in every:
        one, two = rank["others"]["gradients"]
        assert torch.allclose(one, torch.full((2,), mean))
        assert not two.any()


def test_batches_are_counted_one_of_each_rank_in_turn(every: Any) -> None:
    size = len(every)
    found = [rank["others"]["share"] for rank in every]
    sizes = [len(x) for x in union(size)]
    assert sorted(place for mine in found for place in mine.places) == list(range(len(sizes)))
    for mine, own in zip(found, shards(size), strict=True):
        assert (mine.batches, mine.samples) == (len(sizes), sum(sizes))
        assert [sizes[place] for place in mine.places] == [len(x) for x in own]
        assert mine.starts == tuple(sum(sizes[:place]) for place in mine.places)
    read = [rank["others"]["read"] for rank in every]
    assert all(len(mine) >= 1 for mine in read)
    assert sum(map(sum, read)) >= 12


def test_some_of_all_batches_are_counted_anew() -> None:
    mine = Share((1, 3), (4, 2, 3, 3))
    assert (mine.starts, mine.batches, mine.samples) == ((4, 9), 4, 12)
    assert mine.only([3, 0]) == Share((1,), (4, 3))
    assert mine.only([1, 2, 3]) == Share((0, 2), (2, 3, 3))


def test_a_process_alone_exchanges_with_itself() -> None:
    ranks, total = Ranks(), torch.ones(3)
    ranks.sum(total)
    ranks.meet("anywhere")
    ranks.check_alike(network())
    assert total.tolist() == [1, 1, 1]
    assert ranks.add(2.0) == (2.0,)
    assert ranks.each("x") == ["x"]
    assert ranks.first(lambda: "made") == "made"
    assert (ranks.rank, ranks.size, present().size) == (0, 1, 1)
    assert share([Batch((torch.ones(3),), {})] * 2) == Share((0, 1), (3, 3))


def test_within_a_block_it_is_the_same_block() -> None:
    @jointly
    def inner(model: nn.Module) -> Ranks:
        """Say which ranks are together."""
        del model
        return present()

    with together() as outer:
        assert inner(nn.Linear(2, 2)) is outer
    assert inner(model=nn.Linear(2, 2)) is not outer
    assert inner.__doc__ == "Say which ranks are together."


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool])
def test_a_checksum_sees_one_number_and_its_place(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tensor = torch.randint(0, 2, (5, 7)).to(dtype)
    other, turned = tensor.clone(), tensor.clone()
    other.view(-1)[11] = 1 - other.view(-1)[11].int()
    turned[[0, 1]] = turned[[1, 0]]
    assert _sum(tensor) == _sum(tensor.clone())
    assert len({_sum(tensor), _sum(other), _sum(turned)}) == 3


def test_only_groups_are_groups() -> None:
    with pytest.raises(RanksError, match="str"), excise.ranks("all"):
        pass
    with excise.ranks(None):
        assert present().size == 1
