"""Taylor: units whose removal changes the loss least, to first order."""

from __future__ import annotations

from torch import Tensor, nn

from excise.errors import InvalidScoresError
from excise.graph import AxisGraph
from excise.scores.scores import Scores, gather


def taylor(model: nn.Module, graph: AxisGraph) -> Scores:
    """Sum of `|w * grad|` over every slice that the unit owns.

    Reads the gradients that `loss.backward()` left in `.grad`; does not run the model.

    Raises:
        InvalidScoresError: no parameter has a gradient.

    Source:
        Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, eq. 8.
        Differs: absolute value per weight, summed over the whole group.
    """
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    if not gradients:
        raise InvalidScoresError("every group", "no parameter has a gradient; run loss.backward()")

    def change(name: str, weight: Tensor) -> Tensor | None:
        gradient = gradients.get(name)
        return None if gradient is None else (weight * gradient).abs()

    totals = gather(model, graph, change)
    return Scores(totals)
