"""What a model does, written down: operations, tensors, and where every size came from."""

from excise.trace.program import Call, Op, Ref, TensorInfo, Trace, refs
from excise.trace.record import record, uncollected

__all__ = ["Call", "Op", "Ref", "TensorInfo", "Trace", "record", "refs", "uncollected"]
