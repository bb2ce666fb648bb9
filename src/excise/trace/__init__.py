"""What a model does, written down: operations, tensors, and where every size came from."""

from excise.trace.program import Call, Op, Ref, TensorInfo, Trace, refs
from excise.trace.record import record
from excise.trace.setting import uncollected

__all__ = ["Call", "Op", "Ref", "TensorInfo", "Trace", "record", "refs", "uncollected"]
