"""Everything excise raises on purpose, as one tree.

ExciseError
├── TraceError                 the model cannot be read
│   ├── UnsupportedModelError    compiled, scripted, in DataParallel, or not a module
│   └── ExampleError             the example input does not run
├── PlanError                  the request cannot be met
│   ├── InvalidTargetError       a budget or option is out of range, or two were given
│   ├── UnreachableTargetError   the budget cannot be met; says what can
│   ├── InvalidUnitError         a unit is outside its group, or given twice
│   ├── UnknownGroupError        a group of that name does not exist, or may not be cut
│   ├── UnknownModuleError       no module or parameter matches a name or pattern
│   ├── InvalidScoresError       scores are missing, NaN, or of the wrong length
│   └── PlanFormatError          text that is not a plan, or one of a newer version
├── SurgeryError               the model cannot be cut
│   ├── StalePlanError           the plan was made for a model of another shape, or is spent
│   ├── NonFiniteWeightError     a weight is NaN or infinite
│   └── OptimizerStateError      the optimizer is not the model's, or its state cannot be sliced
├── VerificationError          the cut model disagrees with its reference
│   └── NotExactError            a model shrunk exactly disagrees with the original
├── FileError                  a file cannot be read or written
│   ├── CorruptFileError         truncated, damaged, or not a safetensors file
│   ├── PackedDataError          the bytes of a packed tensor are damaged
│   ├── ForeignFileError         a sound file that excise did not write for this model
│   └── NewerFileError           written by a later version of excise
├── MeasureError               a quantity cannot be measured
├── SparseError                a model or layer cannot run sparse
├── CalibrationError           calibration data is no input of the model, or too little
├── RanksError                 processes that calibrate together fail or disagree
└── RequestError               the command line or the demo is asked for what is not there

Each class is a record: its fields are the facts, its message is rendered from them in one order:
what happened, where, and what to do next. Callers may catch the class and read the fields; nobody
has to parse a message.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any


class ExciseError(Exception):
    """Base of every deliberate error; catch it to catch them all."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by field, so that errors survive worker processes."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return _made, (type(self), values)


def _made(kind: type[ExciseError], values: dict[str, Any]) -> ExciseError:
    return kind(**values)


class TraceError(ExciseError, RuntimeError):
    """The model cannot be read."""


class PlanError(ExciseError, ValueError):
    """The request cannot be met."""


class SurgeryError(ExciseError, RuntimeError):
    """The model cannot be cut."""


class FileError(ExciseError, OSError):
    """A file cannot be read or written."""

    def __str__(self) -> str:  # OSError renders its own arguments; subclasses render their fields
        return Exception.__str__(self)


@dataclass(eq=False)
class UnsupportedModelError(TraceError):
    """The object is no plain `nn.Module`."""

    kind: str
    do: str

    def __str__(self) -> str:
        return (
            f"a {self.kind} cannot be traced: its layers are hidden from Python.\n  do: {self.do}."
        )


@dataclass(eq=False)
class ExampleError(TraceError):
    """The model does not run on the example input."""

    module: str
    where: str
    reason: str

    def __str__(self) -> str:
        place = f" in module {self.module!r}" if self.module else ""
        line = f" ({self.where})" if self.where else ""
        return (
            f"the example input does not run through the model{place}{line}: {self.reason}.\n"
            f"  do: pass inputs with which `model(*inputs, **kwargs)` works."
        )


@dataclass(eq=False)
class InvalidTargetError(PlanError):
    """A budget or option is out of range, or not exactly one budget was given."""

    option: str
    given: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.option}={self.given} is not usable.\n  do: pass {self.allowed}."


@dataclass(eq=False)
class UnreachableTargetError(PlanError):
    """The budget cannot be met with the axes that may be cut, or not within 3 %."""

    option: str
    target: float
    reachable: float  # the smallest that can be kept, or the fastest that was measured
    reasons: tuple[str, ...]
    nearest: tuple[float, ...] = field(default=(), kw_only=True)  # what the model's steps leave

    def __str__(self) -> str:
        why = "".join(f"\n    {reason}" for reason in self.reasons)
        if self.nearest:
            near = " and ".join(f"{value:.4g}" for value in self.nearest)
            return (
                f"{self.option}={self.target:.4g} cannot be reached within 3 %: the nearest that "
                f"can are {near}.{why}\n"
                f"  do: ask for one of these, lower round_to, or free more of the model."
            )
        if not self.option.startswith("keep_"):
            return (
                f"{self.option}={self.target:.4g} cannot be reached: the smallest possible model "
                f"has {self.reachable:.4g}, measured. What holds the rest:{why or ' overhead'}.\n"
                f"  do: ask for less, pass a larger batch, lower min_keep, or protect less."
            )
        least = _rounded_up(self.reachable)
        return (
            f"{self.option}={self.target:.4g} cannot be reached: the smallest possible model keeps "
            f"{least}. What holds the rest:{why or ' nothing is pinned'}.\n"
            f"  do: ask for {self.option}>={least}, lower min_keep, or protect fewer modules."
        )


def _rounded_up(fraction: float) -> str:
    """To four digits, never down: what is named as reachable has to be reached."""
    near = float(f"{fraction:.4g}")
    step = 10.0 ** (math.floor(math.log10(near)) - 3) if near > 0 else 0.0
    return f"{near if near >= fraction else near + step:.4g}"


@dataclass(eq=False)
class InvalidUnitError(PlanError):
    """A unit lies outside its group, is given twice, or is the last one."""

    group: str
    unit: int | str
    size: int

    def __str__(self) -> str:
        return (
            f"unit {self.unit} cannot be removed from group {self.group!r}: it has {self.size} "
            f"units, from 0 to {self.size - 1}, each removable once, and one has to stay.\n"
            f"  do: pass distinct units below {self.size}, and leave at least one."
        )


@dataclass(eq=False)
class UnknownGroupError(PlanError):
    """No group of that name may be cut."""

    group: str
    reason: str

    def __str__(self) -> str:
        return (
            f"group {self.group!r} cannot be cut: {self.reason}.\n"
            f"  do: choose from `[g.name for g in graph.groups]`."
        )


@dataclass(eq=False)
class UnknownModuleError(PlanError):
    """No module or parameter matches a name or pattern."""

    pattern: str
    close: tuple[str, ...]

    def __str__(self) -> str:
        hint = f" Close: {', '.join(self.close)}." if self.close else ""
        return (
            f"{self.pattern!r} matches no module and no parameter of the model.{hint}\n"
            f"  do: pass names from `model.named_modules()`, or patterns such as 'layer1.*'."
        )


@dataclass(eq=False)
class InvalidScoresError(PlanError):
    """Scores are missing, not finite, or of the wrong length."""

    group: str
    problem: str

    def __str__(self) -> str:
        return (
            f"the scores of group {self.group!r} cannot be used: {self.problem}.\n"
            f"  do: give every group one finite number per unit (larger = keep), "
            f"as `excise.scores.magnitude(model, graph)` does."
        )


@dataclass(eq=False)
class PlanFormatError(PlanError):
    """The text is not a plan of a version that this excise reads."""

    problem: str

    def __str__(self) -> str:
        return (
            f"this is not a readable plan: {self.problem}.\n"
            f"  do: pass a plan that excise made, or the text that its `to_json()` wrote, to an "
            f"excise at least as new."
        )


@dataclass(eq=False)
class StalePlanError(SurgeryError):
    """The plan was made for a model of another shape, or has been applied already."""

    tensor: str
    planned: str
    found: str

    def __str__(self) -> str:
        return (
            f"{self.tensor} is {self.found}, but the plan was made when it was {self.planned}.\n"
            f"  do: make the plan again from this model; a plan is spent once it has been applied."
        )


@dataclass(eq=False)
class NonFiniteWeightError(SurgeryError):
    """A weight is NaN or infinite, so nothing computed from it can be trusted."""

    tensor: str
    count: int

    def __str__(self) -> str:
        return (
            f"{self.tensor} holds {self.count} values that are NaN or infinite.\n"
            f"  do: repair or reload the weights before pruning."
        )


@dataclass(eq=False)
class OptimizerStateError(SurgeryError):
    """The optimizer does not hold the model's parameters, or its state has no axes to slice."""

    tensor: str
    problem: str

    def __str__(self) -> str:
        return (
            f"the optimizer's state of {self.tensor} cannot follow the cut: {self.problem}.\n"
            f"  do: pass the optimizer of this model, or make a new one after the cut."
        )


@dataclass(eq=False)
class VerificationError(ExciseError, AssertionError):
    """The cut model disagrees with its reference."""

    worst: float
    tolerance: float
    output: str
    reason: str = field(default="", kw_only=True)

    def __str__(self) -> str:
        if self.reason:
            return (
                f"nothing could be proved of the cut model: {self.reason}.\n"
                f"  do: pass inputs that both models run on, or verify=False to take it unproved."
            )
        return (
            f"the cut model differs from the silenced original by {self.worst:.3g} in output "
            f"{self.output} (allowed {self.tolerance:.3g}, relative, float64).\n"
            f"  do: report the model; a cut must never change what the kept units compute."
        )


@dataclass(eq=False)
class NotExactError(VerificationError):
    """A model that was shrunk exactly computes something else; it is not returned."""

    trial: str
    op: str
    where: str

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        first = f"The first operation that differs is {self.op}{place}." if self.op else ""
        return (
            f"the shrunk model differs from the original by {self.worst:.3g} in output "
            f"{self.output}, on the {self.trial} (allowed {self.tolerance:.3g}, relative); "
            f"nothing is returned. {first}\n"
            f"  do: report the model and that operation; `excise.explain` still works."
        )


@dataclass(eq=False)
class CorruptFileError(FileError):
    """The file is truncated, damaged, or no safetensors file."""

    path: str
    problem: str

    def __str__(self) -> str:
        return (
            f"{self.path} cannot be read: {self.problem}.\n"
            f"  do: copy or download it again; nothing has been loaded."
        )


@dataclass(eq=False)
class PackedDataError(FileError):
    """A packed tensor's bytes do not say what they claim."""

    problem: str

    def __str__(self) -> str:
        return (
            f"packed data cannot be read: {self.problem}.\n"
            f"  do: copy or download the file again; nothing has been loaded."
        )


@dataclass(eq=False)
class ForeignFileError(FileError):
    """A sound file, but not one that excise wrote for this model."""

    path: str
    problem: str

    def __str__(self) -> str:
        return (
            f"{self.path} does not fit: {self.problem}.\n"
            f"  do: pass the `build` that returns the original, uncut architecture of this file."
        )


@dataclass(eq=False)
class NewerFileError(FileError):
    """The file was written by a later version of excise."""

    path: str
    version: int
    supported: int

    def __str__(self) -> str:
        return (
            f"{self.path} has format version {self.version}; this excise reads up to "
            f"{self.supported}.\n"
            f"  do: upgrade excise."
        )


@dataclass(eq=False)
class MeasureError(ExciseError, RuntimeError):
    """A quantity cannot be measured."""

    quantity: str
    reason: str
    do: str = "pass inputs with which `model(*inputs, **kwargs)` works"

    def __str__(self) -> str:
        return f"{self.quantity} cannot be measured: {self.reason}.\n  do: {self.do}."


@dataclass(eq=False)
class SparseError(ExciseError, ValueError):
    """A model or layer cannot run sparse."""

    problem: str
    wanted: str

    def __str__(self) -> str:
        return f"it cannot run sparse: {self.problem}.\n  do: pass {self.wanted}."


@dataclass(eq=False)
class CalibrationError(ExciseError, ValueError):
    """Calibration data that the model cannot take, or that is too little to fit anything."""

    problem: str

    def __str__(self) -> str:
        return (
            f"the calibration data cannot be used: {self.problem}.\n"
            f"  do: pass a tensor, a list of batches or a data loader whose batches are inputs "
            f"like the example, labels last or under another name."
        )


@dataclass(eq=False)
class RanksError(ExciseError, RuntimeError):
    """Another of the processes that calibrate together has failed, or disagrees with rank 0."""

    problem: str
    ranks: tuple[int, ...]  # which; empty if it is this one

    def __str__(self) -> str:
        who = "".join(f"rank {rank}: " for rank in self.ranks[:1])
        more = f" (and {len(self.ranks) - 1} more ranks)" if len(self.ranks) > 1 else ""
        return (
            f"the ranks cannot calibrate together: {who}{self.problem}{more}.\n"
            f"  do: call the same function on every rank with the same model (broadcast its "
            f"parameters and buffers from rank 0), or use `with excise.ranks(None)` for one alone."
        )


@dataclass(eq=False)
class RequestError(ExciseError):
    """An argument does not name what it should name, or something it needs is not installed."""

    what: str
    where: str
    do: str

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        return f"{self.what}{place}.\n  do: {self.do}."

    @classmethod
    def of(cls, error: BaseException, what: str, where: str, do: str) -> RequestError:
        """Wrap what someone else's code raised: its type, and the first line of its message."""
        first = next(iter(str(error).splitlines()), "")
        return cls(f"{what}: {type(error).__name__}: {first[:300]}".rstrip(": ."), where, do)
