"""Run one model on many batches side by side, and stop all of them before chosen operations.

Each batch has a thread of its own, but only one of them runs at a time: whoever waits for the
others has handed the baton on. At a stop every batch has arrived at the same operation, so that its
inputs are known for the whole calibration set, and a weight can be changed before anyone reads it.
What is held meanwhile are the live activations of each batch, as in a single large batch; a batch
may join later, where maps are smaller, and runs through what the others have passed by then.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from excise.calibration.call import Call
from excise.calibration.data import Batch
from excise.calibration.freed import give_back
from excise.calibration.path import Follower
from excise.errors import ExampleError
from excise.trace import Op
from excise.trace.run import run
from excise.trace.setting import settled
from excise.trace.skeleton import copied, named_tensors
from excise.trace.tape import Tape


@dataclass(kw_only=True)
class Visit(Call):
    """A call of one batch at a stop.

    Attributes:
        place: the batch's.
        number: the operation's number in the trace.
        kept: outputs of earlier operations that were asked for, by number.
    """

    place: int
    number: int
    kept: dict[int, Any]

    def release(self) -> None:
        """Let go of all tensors; whoever still has the visit would hold them."""
        self.args, self.kwargs, self.kept, self.result = (), {}, {}, None


class _Cancelled(BaseException):
    """Unwinds the thread of a batch that nobody waits for any more."""


@dataclass
class _Baton:
    """Who may run: a batch, by its place, or the conductor (-1)."""

    turn: int = -1
    cancelled: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)

    def pass_to(self, place: int) -> None:
        with self.changed:
            self.turn = place
            self.changed.notify_all()

    def wait_for(self, place: int) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.turn == place or (self.cancelled and place >= 0))
        if self.cancelled and place >= 0:
            raise _Cancelled


class _Stepper(Follower):
    """Keeps the outputs that are asked for, and stops before chosen operations."""

    def __init__(
        self,
        ops: Sequence[Op],
        stops: Collection[int],
        keep: Mapping[int, int],
        stop: Callable[[Visit], None],
        place: int,
    ) -> None:
        super().__init__(ops)
        self.stops, self.keep, self.stop, self.place = stops, keep, stop, place
        self.kept: dict[int, Any] = {}

    def visit(self, number: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation, after a stop if one was asked for."""
        if number in self.stops:
            visit = Visit(
                self.module, func, args, kwargs, place=self.place, number=number, kept=self.kept
            )
            with self.pause():
                self.stop(visit)
                out = visit.run()
            visit.release()
        else:
            out = func(*args, **kwargs)
        for made in [made for made in self.kept if self.keep[made] <= number]:
            del self.kept[made]
        if self.keep.get(number, -1) > number:
            self.kept[number] = out
        return out


class Lanes:
    """A model on many batches, all at the same operation."""

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        ops: Sequence[Op],
        stops: Collection[int],
        *,
        keep: Mapping[int, int] | None = None,
        joins: Sequence[int] = (),
    ) -> None:
        """Start at the first operation.

        Args:
            model: in the mode in which it is to run. Its parameters are read as they are at that
                moment; its attributes are not touched, each batch runs on a shell of its own.
            batches: the calibration data, all held while the lanes run.
            ops: the operations of its trace; a batch that leaves this path is refused.
            stops: numbers of operations to stop before.
            keep: numbers of operations whose outputs are kept -> the last stop that wants them.
            joins: for each batch at which of the stops it begins to take part, counted from 0; it
                starts when the others go there. By default, all of them start together.
        """
        self._baton = _Baton()
        self._settings = contextlib.ExitStack()
        self._settings.enter_context(settled())  # torch's own, shared by all threads
        self._visits: list[Visit | None] = [None] * len(batches)
        self._errors: list[BaseException | None] = [None] * len(batches)
        self._threads = []
        self._stops, self._turn = sorted(stops), 0
        self._joins = joins or [0] * len(batches)
        for place, (args, kwargs) in enumerate(batches):
            own = self._stops[self._joins[place] :]
            tape = _Stepper(
                ops, frozenset(own), keep or {}, functools.partial(self._stop, place), place
            )
            shell = copied(model, {id(t): t for _, t in named_tensors(model)})
            thread = threading.Thread(
                target=self._drive, args=(place, shell, tape, args, kwargs), daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _drive(self, place: int, model: nn.Module, tape: Tape, args: Any, kwargs: Any) -> None:
        try:
            self._baton.wait_for(place)
            with torch.no_grad():
                run(model, tape, args, kwargs)
        except _Cancelled:
            return
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            self._errors[place] = error
        self._visits[place] = None
        self._baton.pass_to(-1)

    def _stop(self, place: int, visit: Visit) -> None:
        self._visits[place] = visit
        self._baton.pass_to(-1)
        self._baton.wait_for(place)

    def advance(self) -> list[Visit] | None:
        """Let every batch that takes part run to the next stop; None once all have ended.

        Raises:
            ExampleError: a batch does not run, or leaves the traced path.
        """
        here = max(0, min(self._turn, len(self._stops) - 1))
        self._turn += 1
        going = [i for i, joins in enumerate(self._joins) if joins <= here]
        for place in going:
            if self._threads[place].is_alive():
                self._baton.pass_to(place)
                self._baton.wait_for(-1)
                if self._joins[place] == here:  # it has been through all that the others have
                    give_back()
            error = self._errors[place]
            if error is not None:
                self.close()
                raise error
        give_back()
        found = [visit for visit in self._visits if visit is not None]
        if len(found) not in {0, len(going)} or len({v.number for v in found}) > 1:
            self.close()
            raise ExampleError("", "", "the batches take different paths through the model")
        return found or None

    def close(self) -> None:
        """End every batch where it stands."""
        with self._baton.changed:
            self._baton.cancelled = True
            self._baton.changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._settings.close()

    def __enter__(self) -> Lanes:  # noqa: PYI034 - `Self` is younger than Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[list[Visit]]:
        while (visits := self.advance()) is not None:
            yield visits
