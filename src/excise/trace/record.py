"""Run a model once and write down what it did.

Two recorders work together. `Tape`, under the dispatcher, sees every tensor operation after
composite ones have been decomposed. `Calls`, above it, sees the Python calls, where the sizes that
a call was given still remember their origin, and keeps a few composites (`linear`, attention,
recurrent layers) whole.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import keystr, tree_flatten, tree_flatten_with_path, tree_map_only

from excise.errors import ExampleError, TraceError
from excise.trace import provenance, skeleton
from excise.trace.fake import Fakes
from excise.trace.memo import uncached
from excise.trace.program import Call, Op, Ref, TensorInfo, Trace
from excise.trace.provenance import SizeOf, TracedInt
from excise.trace.replay import Replay
from excise.trace.wide import KERNELS, wider

_functorch = torch._C._functorch  # noqa: SLF001 - has no public name
_nn = torch._C._nn  # noqa: SLF001 - where torch keeps the functions that F re-exports
WHOLE: dict[Any, str] = {
    _nn.linear: "linear",
    torch.matmul: "matmul",
    Tensor.matmul: "matmul",
    Tensor.__matmul__: "matmul",
    torch.lstm: "lstm",
    torch.gru: "gru",
    torch.rnn_tanh: "rnn",
    torch.rnn_relu: "rnn",
    torch.nn.functional.scaled_dot_product_attention: "scaled_dot_product_attention",
    _nn.one_hot: "one_hot",  # its parts differ between fake and real data
}
SIZED = frozenset(
    [
        "view",
        "reshape",
        "expand",
        "repeat",
        "layer_norm",
        "group_norm",
        "rms_norm",
        "split",
        "chunk",
        "__getitem__",
        "__setitem__",
        "channel_shuffle",
        "native_channel_shuffle",
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "new_zeros",
        "zeros",
        "unflatten",
        "narrow",
        "split_with_sizes",
        "ones",
        "empty",
        "full",
        "broadcast_to",
        "new_empty",
        "new_ones",
        "new_full",
        "tile",
        "rand",
        "randn",
        "arange",
        "repeat_interleave",
        "tensor_split",
        "pad",
        "histc",
        "one_hot",
        "resize_",
        "randint",
        "view_as_strided",
        "as_strided",
    ]
)
"""Names of the calls whose int arguments are sizes of dimensions; `rules/call.py` reads them."""
_SHAPE = Tensor.shape.__get__  # type: ignore[attr-defined]
_TORCH = torch.__path__[0]
_HERE = __file__.rsplit("/", 2)[0]


_READ = frozenset({"tolist", "numpy", "__array__"})
_TOLD = _READ | {"size", "__len__", "numel"}
_IDENTITIES = frozenset({"detach", "alias", "lift", "lift_fresh", "_to_copy", "clone"})
"""Not operations: the same units, and fake, real and widened runs differ in where they occur."""

_RESTRIDES = frozenset({"as_strided", "as_strided_"})

_OURS = 3
"""References to a tensor that is in a list only, as a loop over the list counts them."""

_MOST = 1 << 25
"""Bytes of real tensors, after which a recorder looks which of them it may let go."""

_RENAMED = {"_unsafe_view": "view", "_reshape_alias": "view", "reshape": "view"}


def _only_unit_strides(args: tuple[Any, ...]) -> bool:
    """Whether `as_strided` changes strides of dimensions of length 1 only: a layout, no values.

    Pooling to one pixel does so if its input is channels-last, which the same model may or may not
    be in two runs.
    """
    tensor, shape, strides = args[:3]
    if len(args) > 3 and args[3] is not None:  # noqa: PLR2004
        return False  # it counts from where the memory begins, which a fake view does not know
    same = zip(tensor.size(), shape, tensor.stride(), strides, strict=False)
    return len(shape) == tensor.dim() and all(
        n == m and (n == 1 or old == new) for n, m, old, new in same
    )


class Tape(TorchDispatchMode):
    """Sees every dispatched operation, and hands it to `done` with its result.

    Functions in `aside` run unseen.
    """

    aside: frozenset[Any] = frozenset()

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.paused = False
        self.wide = False
        self.module = ""
        self.count = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would wrap each call in a guard against its compiler, at 5 us a call."""
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self.paused or func.namespace == "prim":
            return self.inside(func, args, kwargs)
        name = func.overloadpacket.__name__
        if func.namespace != "aten":
            name = f"{func.namespace}::{name}"
        if name in _IDENTITIES or (name in _RESTRIDES and _only_unit_strides(args)):
            out = self.inside(func, args, kwargs)
            self.alias(args[0], out)
            return out
        return self.step(_RENAMED.get(name, name), func, args, kwargs)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Operations in this block are not steps of the model."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    def alias(self, source: Tensor, out: Tensor) -> None:
        """Note that two tensor objects are the same tensor."""

    def inside(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation that is part of a larger recorded one."""
        return func(*args, **kwargs)

    def step(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one recorded operation."""
        raise NotImplementedError


class Recorder(Tape):
    """Writes operations down; every tensor gets a number the first time it is seen.

    On real tensors (`fakes` is None), `replay` holds what their data decided; `wide` runs every
    operation in float64, as a proof does.
    """

    def __init__(
        self, fakes: Fakes | None, *, wide: bool = False, replay: Replay | None = None
    ) -> None:
        super().__init__()
        self.fakes = fakes
        self.wide = wide
        self.replay = replay or Replay()
        self.numbers: dict[int, int] = {}
        self.alive: list[Tensor] = []
        self.fresh = 0  # bytes of real tensors seen since the last look
        self.tensors: list[TensorInfo] = []
        self.ops: list[Op] = []
        self.calls: list[Call] = []
        self.names: dict[str, Ref] = {}
        self.outputs: list[tuple[str, Ref]] = []

    def see(self, tensor: Tensor, role: str, name: str = "") -> Ref:
        """The number of a tensor; a new one is entered with the given role."""
        number = self.numbers.get(id(tensor))
        if number is None:
            number = len(self.tensors)
            self.numbers[id(tensor)] = number
            self.alive.append(tensor)
            self.fresh += tensor.nbytes if self.fakes is None else 0
            shape = tuple(map(int, tensor.size()))
            floating, boolean = tensor.is_floating_point(), tensor.dtype is torch.bool
            width, value = tensor.element_size(), None
            if role == "constant" and tensor.numel() == 1:
                value = _number(tensor)
            self.tensors.append(TensorInfo(shape, role, name, floating, boolean, width, value))
        return Ref(number)

    def alias(self, source: Tensor, out: Tensor) -> None:
        """Give both the same number."""
        number = self.see(source, "constant").number
        if id(out) not in self.numbers:
            self.numbers[id(out)] = number
            self.alive.append(out)

    def forget(self) -> None:
        """Let go of real tensors that nobody else has: they can not come back under their id."""
        self.fresh, kept = 0, list[Tensor]()
        for tensor in self.alive:
            if sys.getrefcount(tensor) > _OURS or tensor._use_count() > 1:  # type: ignore[attr-defined]  # noqa: SLF001
                kept.append(tensor)
            else:
                self.numbers.pop(id(tensor), None)
        self.alive = kept

    def freeze(self, value: Any, role: str = "constant") -> Any:
        """Replace tensors by their numbers, in nested tuples, lists and dicts."""
        if isinstance(value, Tensor):
            return self.see(value, role)
        if isinstance(value, (list, tuple)):
            return tuple(self.freeze(item, role) for item in value)
        if isinstance(value, dict):
            return {key: self.freeze(item, role) for key, item in value.items()}
        if type(value) is TracedInt and not provenance.now(value):
            return int(value)  # kept by the code from an earlier trace
        return value

    def inside(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation, or remember what comes out of it."""
        if self.wide:
            func, args, kwargs = widened(self, func, args, kwargs)
        found = self.replay if self.fakes is None else self.fakes
        out = found.outcome(func, args, kwargs)
        return wider(out) if self.wide else out

    def step(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation and write it down."""
        if self.fresh > _MOST:
            self.forget()
        frozen, kept = self.freeze(args), self.freeze(kwargs) if kwargs else {}
        if name == "as_strided":
            kept["layout"] = (*args[0].stride(), args[0].storage_offset())
        out = self.inside(func, args, kwargs)
        if name.endswith("_"):
            self.forget_reshaped(out)
        outs = tuple(self.see(t, "activation") for t in _tensors(out))
        pointwise = torch.Tag.pointwise in getattr(func, "tags", ())
        self.ops.append(Op(name, frozen, kept, outs, self.module, where(), pointwise))
        return out

    def forget_reshaped(self, out: Any) -> None:
        """A tensor that was given another shape in place is a new one."""
        for tensor in _tensors(out):
            number = self.numbers.get(id(tensor))
            if number is not None and tuple(tensor.size()) != self.tensors[number].shape:
                del self.numbers[id(tensor)]

    def partial(self) -> Trace:
        """Everything seen so far."""
        found, least = list(provenance.guards), list(provenance.bounds)
        return Trace(self.tensors, self.ops, self.calls, found, self.names, self.outputs, least)

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Write down a call that takes sizes."""
        outs = tuple(self.see(t, "activation") for t in _tensors(out))
        self.calls.append(
            Call(name, self.freeze(args), self.freeze(kwargs), outs, self.module, where())
        )


class Whole(NamedTuple):
    """A composite function that runs without its parts being written down."""

    tape: Tape
    whole: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""
        with self.tape.pause():
            return self.whole(*args, **kwargs)


def widened(tape: Tape, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
    """An operation in float64, written in others where torch has no such kernel."""
    kernel = KERNELS.get(func)
    wide = func if kernel is None else Whole(tape, kernel)
    return wide, wider(args), wider(kwargs)


class Calls(TorchFunctionMode):
    """Sees Python calls: hands out traced sizes, keeps whole ops whole, notes calls with sizes."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape
        self.recorder = tape if isinstance(tape, Recorder) else None

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        aside = func in self.tape.aside
        if aside or (
            _functorch.peek_interpreter_stack() is not None and any(map(_is_mapped, args))
        ):  # under `vmap`: the parts are seen below it, unwrapped
            with self.tape.pause() if aside else contextlib.nullcontext():
                return func(*args, **kwargs)
        if self.recorder is not None and func == _SHAPE:
            return self.sizes(args[0])
        if self.recorder is not None and name in _TOLD:
            told = self.read if name in _READ else self.size
            return told(name, func, args, kwargs)
        if func in WHOLE:
            out = self.whole(WHOLE[func], func, args, kwargs)
            if self.recorder is not None and name in SIZED and not self.tape.paused:
                self.recorder.call(name, args, kwargs, out)
            return out
        if func is torch.nn.functional.multi_head_attention_forward:
            with self:
                return _attention_forward(*args, **kwargs)
        out = func(*args, **kwargs)
        if self.recorder is not None and name in SIZED:
            self.recorder.call(name, args, kwargs, out)
        return out

    def read(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A tensor's values handed to Python in a way that the dispatcher does not see."""
        assert self.recorder is not None  # noqa: S101 - for the type checker
        self.recorder.call(name, args[:1], {}, None)
        if self.recorder.fakes is None and name == "tolist":
            return self.recorder.replay.decide(name, lambda: func(*args, **kwargs))
        return func(*args, **kwargs)

    def sizes(self, tensor: Tensor) -> torch.Size:
        """`tensor.shape`, each entry with its origin."""
        assert self.recorder is not None  # noqa: S101 - for the type checker
        number = self.recorder.see(tensor, "constant").number
        return torch.Size(
            TracedInt.of(n, SizeOf(number, i)) if n > 1 else n for i, n in enumerate(tensor.size())
        )

    def size(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`size()`, `size(dim)`, `len()` and `numel()` of a tensor."""
        plain = func(*args, **kwargs)
        if not isinstance(args[0], Tensor):
            return plain
        sizes = self.sizes(args[0])
        if name == "numel":
            product = 1
            for length in sizes:
                product = product * length
            return product
        if name == "__len__":
            return sizes[0]
        if isinstance(plain, int):
            return sizes[args[1] if len(args) > 1 else kwargs["dim"]]
        return sizes

    def whole(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a composite as a single step of the tape."""
        if self.tape.paused:
            return func(*args, **kwargs)
        return self.tape.step(name, Whole(self.tape, func), args, kwargs)


def _number(tensor: Tensor) -> float | None:
    """The value of a tensor that was made of a number; None if it is not known."""
    known = tensor.constant if isinstance(tensor, FakeTensor) else tensor
    if known is None or known.is_complex() or known.is_meta:
        return None
    with torch._C._DisableTorchDispatch():  # noqa: SLF001 - else a mode would see it
        return float(known)


def _is_mapped(value: Any) -> bool:
    return isinstance(value, Tensor) and _functorch.is_functorch_wrapped_tensor(value)


def _unwrapped(function: Any) -> Callable[..., Any]:
    """A copy of a torch.nn.functional function that runs under a function mode, not beside it.

    The original hands itself over to the mode as one opaque call; this copy believes that there is
    no mode, so that its inner calls are seen.
    """
    scope = dict(function.__globals__)
    scope["has_torch_function"] = lambda *_: False
    code, defaults = function.__code__, function.__defaults__
    made = types.FunctionType(code, scope, function.__name__, defaults, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


_attention_forward = _unwrapped(torch.nn.functional.multi_head_attention_forward)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [t for item in value for t in _tensors(item)]
    return []


def where() -> str:
    """The innermost line of the user's own code, as `file.py:12`; torch's lines are skipped."""
    frame = sys._getframe(2)  # noqa: SLF001 - whoever asks is a recorder
    last = ""
    while frame is not None:
        code = frame.f_code
        if not _is_foreign(code.co_filename):
            return _place(code.co_filename, frame.f_lineno)
        if not last and code.co_name == "forward":
            last = _place(code.co_filename, frame.f_lineno)
        if code is run.__code__:
            break
        frame = frame.f_back  # type: ignore[assignment]
    return last


@functools.cache  # asked ten times for each operation, about a few dozen files
def _is_foreign(file: str) -> bool:
    return file.startswith((_TORCH, _HERE))


@functools.lru_cache(4096)
def _place(file: str, line: int) -> str:
    return f"{'/'.join(file.rsplit('/', 2)[-2:])}:{line}"


@contextlib.contextmanager
def _module_paths(model: nn.Module, tape: Tape) -> Iterator[None]:
    """Keep `tape.module` on the module that is running."""
    handles = []
    for name, module in model.named_modules():

        def enter(_m: Any, _a: Any, name: str = name) -> None:
            tape.module = name

        handles.append(module.register_forward_pre_hook(enter))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def slow_path() -> Iterator[None]:
    """Switch torch's fused transformer kernels off, which hide every axis, and restore them."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _Eager:
    """What a model has compiled runs as it was written: a compiled function hides its axes.

    The stance of torch's compiler is one for all threads, and runs in several may end in any order:
    the first one changes it, the last one restores it.
    """

    def __init__(self) -> None:
        self._lock, self._runs = threading.Lock(), 0
        self._stance: Any = None

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        """One run; nothing to do if the compiler is not loaded."""
        if "torch._dynamo" not in sys.modules:
            yield
            return
        with self._lock:
            self._runs += 1
            if self._runs == 1:
                self._stance = torch.compiler.set_stance("force_eager")
        try:
            yield
        finally:
            with self._lock:
                self._runs -= 1
                if not self._runs:
                    self._stance.__exit__(None, None, None)


_eager = _Eager()


@contextlib.contextmanager
def _default(tape: Tape) -> Iterator[None]:
    """What a wide run makes of Python floats is wide too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if tape.wide else before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def _no_fake_log() -> Iterator[None]:
    """Keep torch from logging a traceback for each failing fake run; the failure itself is told."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Switch Python's cycle collector off, and restore it.

    A trace makes ten thousands of objects that all stay, and no garbage to speak of; the collector
    would search them, and all of torch, again and again: half of the time of a large trace.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """The settings of torch that a run changes, changed once around several runs side by side.

    Each run restores what it found. Of runs that overlap, the last to end would restore what the
    first one had set.
    """
    with slow_path(), _no_fake_log():
        yield


def run(model: nn.Module, tape: Tape, args: Any, kwargs: Any, *, grad: bool = False) -> Any:
    """Run a model under a tape, without gradients unless they are asked for.

    Raises:
        ExampleError: the model does not run on these inputs; names the module and the line.
    """
    calls = Calls(tape)
    try:
        with (
            slow_path(), _eager.run(), _no_fake_log(), _module_paths(model, tape), uncached(model),
            torch.set_grad_enabled(grad), _default(tape), calls, tape,
        ):  # fmt: skip
            return model(*args, **kwargs)
    except TraceError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ExampleError(
            tape.module, _raised_at(error), f"{type(error).__name__}: {reason}"
        ) from error


def _raised_at(error: BaseException) -> str:
    place, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not _is_foreign(file):
            place = _place(file, trace.tb_lineno)
        trace = trace.tb_next
    return place


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


def output_leaves(out: Any) -> list[tuple[Any, Tensor]]:
    """The tensors in a model's output with their paths; dataclasses and plain objects included."""
    found: list[tuple[Any, Tensor]] = []
    for path, value in tree_flatten_with_path(out)[0]:
        if isinstance(value, Tensor):
            found.append((path, value))
        elif hasattr(value, "__dict__") and not isinstance(value, (nn.Module, type)):
            inner = {k: v for k, v in vars(value).items() if not k.startswith("_")}
            found += [(path + deeper, t) for deeper, t in output_leaves(inner)] if inner else []
    return found
