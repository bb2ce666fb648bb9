"""Ranks: processes that each hold a share of the calibration data, and end with the same model.

Sums over data are added up over all ranks, so that shares of any size count as one set. What is
decided from them is decided on rank 0 and handed out: different machines round differently, and a
rank that chose for itself could choose otherwise.

Every exchange begins with word of all ranks that they are well and at the same point. A rank that
fails says so at the next one, in place of what it would have sent, and no rank waits for it.
"""

from __future__ import annotations

import contextlib
import functools
import zlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.utils._pytree import tree_map_only

from excise.errors import ExciseError, RanksError

T = TypeVar("T")
P = ParamSpec("P")
_DEFAULT = object()
_GROUP: ContextVar[Any] = ContextVar("excise_group", default=_DEFAULT)
_MIX = 0x1E3779B97F4A7C15  # an odd number without a pattern, for weights that have none
_CHUNK = 2**22  # numbers of a tensor that are looked at together
_GPU = ("nccl", "xccl", "hccl")  # backends that move what lies on an accelerator, and nothing else


@contextlib.contextmanager
def ranks(group: Any) -> Iterator[None]:
    """Say which processes work together inside the block.

    Where `torch.distributed` has been initialised with several ranks (`torchrun`), all of them do:
    functions that read calibration data, `prune` and `schedule` have to be called on every rank,
    each with its own share of the data, and give the same result on all of them.

        with excise.ranks(None):        # this process alone, as on rank 0 only
            excise.prune(model, x, keep_macs=0.5, calibration=loader)

    Args:
        group: a process group that this process is in; None for this process alone.

    Raises:
        RanksError: something else, or a group that this process is not in.
    """
    if group is not None:
        known = distributed.is_available() and isinstance(group, distributed.ProcessGroup)
        if not known or distributed.get_rank(group) < 0:
            raise RanksError(f"a {type(group).__name__} is no group of this process", ())
    token = _GROUP.set(group)
    try:
        yield
    finally:
        _GROUP.reset(token)


class Ranks:
    """This process and those that it works with; on its own, every exchange is with itself.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
    """

    def __init__(self, group: Any = None) -> None:
        """The ranks of a process group; None for this process alone."""
        self.group = group
        self.rank = 0 if group is None else distributed.get_rank(group)
        self.size = 1 if group is None else distributed.get_world_size(group)

    @property
    def device(self) -> torch.device:
        """Where a tensor has to lie to be sent."""
        if distributed.get_backend(self.group) in _GPU:
            found = torch.accelerator.current_accelerator()
            kind = "cuda" if found is None else found.type
            return torch.device(kind, torch.accelerator.current_device_index())
        return torch.device("cpu")

    def sum(self, *tensors: Tensor) -> None:
        """Add tensors up over all ranks, in place; of one shape and dtype on all of them.

        Raises:
            RanksError: another rank has failed, or is somewhere else.
        """
        if self.group is None:
            return
        self.meet("sum", *((tuple(t.shape), str(t.dtype)) for t in tensors))
        for tensor in tensors:
            sent = tensor.detach().to(self.device).contiguous()
            distributed.all_reduce(sent, group=self.group)
            if sent.data_ptr() != tensor.data_ptr():
                tensor.detach().copy_(sent)

    def add(self, *numbers: float) -> tuple[float, ...]:
        """Numbers, added up over all ranks.

        Raises:
            RanksError: as `sum`.
        """
        total = torch.tensor(numbers, dtype=torch.float64)
        self.sum(total)
        return tuple(total.tolist())

    def first(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on all ranks; the others only wait.

        Tensors in it are on the CPU, but for rank 0 on its own. An error of excise's is raised on
        all ranks.

        Raises:
            RanksError: as `sum`.
        """
        if self.group is None:
            return make()
        box: list[Any] = [None]
        if self.rank == 0:
            try:
                box = [tree_map_only(Tensor, lambda t: t.detach().cpu(), make())]
            except RanksError:
                raise
            except ExciseError as error:
                box = [error]
        self.meet("first")
        source = distributed.get_global_rank(self.group, 0)
        distributed.broadcast_object_list(box, source, group=self.group)
        found = box[0]
        if isinstance(found, ExciseError):
            raise found
        return found  # type: ignore[no-any-return]

    def each(self, value: T) -> list[T]:
        """What every rank gives, in order, on all ranks.

        Raises:
            RanksError: as `sum`.
        """
        if self.group is None:
            return [value]
        self.meet("each")
        return self._gathered(value)

    def meet(self, *what: Any) -> None:
        """Wait for all ranks, and hear whether they are well and at the same point.

        Raises:
            RanksError: one has failed, or is at another point.
        """
        if self.group is None:
            return
        words = self._words(zlib.crc32(repr(what).encode()) + 1)
        failed = tuple(i for i, word in enumerate(words) if not word)
        if failed:
            told = [text for text in self._gathered("") if text]
            raise RanksError(f"it has failed ({told[0]})", failed)
        if len(set(words)) > 1:
            other = tuple(i for i, word in enumerate(words) if word != words[0])
            raise RanksError("it does something else than rank 0", other)

    def fail(self, error: Exception) -> None:
        """Tell the others that this rank has failed, where they wait for it next."""
        if self.group is not None:
            self._words(0)
            line = next(iter(str(error).splitlines()), "")
            self._gathered(f"{type(error).__name__}: {line}".rstrip(": ."))

    def _words(self, mine: int) -> list[int]:
        """One number of every rank."""
        words = torch.zeros(self.size, dtype=torch.int64, device=self.device)
        words[self.rank] = mine
        distributed.all_reduce(words, group=self.group)
        return [int(word) for word in words.tolist()]

    def _gathered(self, value: T) -> list[T]:
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value, group=self.group)
        return found

    def check_alike(self, *models: nn.Module) -> None:
        """Refuse models that are not bit for bit the same on all ranks.

        Raises:
            RanksError: naming the first tensor that differs.
        """
        if self.group is None:
            return
        mine = [facts for model in models for facts in _facts(model)]
        every = self.each(mine)
        for i, theirs in enumerate(every):
            if len(theirs) != len(every[0]):
                raise RanksError("its model has other tensors than rank 0's", (i,))
            for (name, *mine), (other, *facts) in zip(every[0], theirs, strict=True):
                if (name, *mine) != (other, *facts):
                    problem = f"{other} of its model is not that of rank 0"
                    raise RanksError(problem, (i,))


_OPEN: ContextVar[Ranks | None] = ContextVar("excise_ranks", default=None)


def present() -> Ranks:
    """The ranks that work together now: those of the `together` that is open, or none but this."""
    return _OPEN.get() or Ranks()


@contextlib.contextmanager
def together(*models: nn.Module) -> Iterator[Ranks]:
    """Work with the other ranks inside the block; within another such block it is the same one.

    Args:
        models: are checked to be the same everywhere, by the outermost block.

    Raises:
        RanksError: they are not, or another rank has failed.
    """
    known = _OPEN.get()
    if known is not None:
        yield known
        return
    found = Ranks(_group())
    token = _OPEN.set(found)
    try:
        found.check_alike(*models)
        yield found
        found.meet("end")
    except RanksError:
        raise  # all ranks have heard of it
    except Exception as error:
        with contextlib.suppress(Exception):  # the others may be gone: what counts is the error
            found.fail(error)
        raise
    finally:
        _OPEN.reset(token)


def jointly(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function run in `together`, with the modules among its arguments."""

    @functools.wraps(function)
    def joint(*args: P.args, **kwargs: P.kwargs) -> T:
        given = (*args, *kwargs.values())
        with together(*(v for v in given if isinstance(v, nn.Module))):
            return function(*args, **kwargs)

    return joint


def _group() -> Any:
    found = _GROUP.get()
    if found is not _DEFAULT:
        return found
    if not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed.group.WORLD if distributed.get_world_size() > 1 else None


def _facts(model: nn.Module) -> Iterator[tuple[Any, ...]]:
    """Name, shape, dtype and a checksum of every parameter and buffer."""
    for named in (model.named_parameters(), model.named_buffers()):
        for name, tensor in named:
            yield name, tuple(tensor.shape), str(tensor.dtype), _sum(tensor)


@torch.no_grad()
def _sum(tensor: Tensor) -> int:
    """A checksum of a tensor's bytes, modulo 2^64; a change of a single number changes it."""
    if tensor.is_meta or tensor.layout is not torch.strided or tensor.is_quantized:
        return 0
    whole = tensor.detach().contiguous().view(-1)
    whole = torch.view_as_real(whole).view(-1) if whole.is_complex() else whole
    kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[whole.element_size()]
    bits, total = whole.view(kind), 0
    for start in range(0, len(bits), _CHUNK):
        part = bits[start : start + _CHUNK].long()
        place = torch.arange(start, start + len(part), device=part.device) * _MIX
        total += int(((part + 1) * ((place ^ (place >> 29)) * _MIX | 1)).sum())
    return total % 2**64
