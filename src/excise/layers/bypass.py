"""What stands where a residual branch was: a module that hands its input on, or zeros in its place.

A branch is removed by replacing the modules that it runs through. The code around them stays as it
is and still calls them, so what stands there takes the same arguments and returns the same form.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Union

import torch
from torch import Tensor, nn

KINDS = ("identity", "input", "zeros")


class Bypassed(NamedTuple):
    """A module that is replaced: `Bypassed("layer1.2", "identity")`.

    Attributes:
        module: its qualified name.
        makes: "identity" for `nn.Identity`; "input" for a `Bypass` that returns what it is given,
            "zeros" for one that returns zeros of that shape and dtype.
        given: which argument that is: a position, or the name of a keyword.
        outputs: length of the tuple that is returned; 0 if it is the tensor alone.
        place: of the tensor in that tuple; the others are None.
    """

    module: str
    makes: str
    given: Union[int, str] = 0  # noqa: UP007 - Python 3.10 reads it when the class is made
    outputs: int = 0
    place: int = 0

    def made(self) -> nn.Module:
        """What is put in its place."""
        if self.makes == "identity":
            return nn.Identity()
        return Bypass(
            zeros=self.makes == "zeros", given=self.given, form=(self.outputs, self.place)
        )


class Bypass(nn.Module):
    """Returns one of its arguments as it is, or zeros like it; it has no parameters."""

    def __init__(
        self, *, zeros: bool, given: int | str = 0, form: tuple[int, int] = (0, 0)
    ) -> None:
        """See `Bypassed`; `form` is `(outputs, place)`."""
        super().__init__()
        self.zeros, self.given = zeros, given
        self.outputs, self.place = form

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The argument, or zeros of its shape, dtype and device; in a tuple if that is the form."""
        found: Tensor = kwargs[self.given] if isinstance(self.given, str) else args[self.given]
        out = torch.zeros_like(found) if self.zeros else found
        if not self.outputs:
            return out
        return tuple(out if i == self.place else None for i in range(self.outputs))

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return "zeros" if self.zeros else "input"


def stand_ins(model: nn.Module, bypassed: Iterable[Bypassed]) -> dict[int, nn.Module]:
    """What stands in for each module, by the module's id, in its mode.

    Raises:
        AttributeError: there is no module of that name.
    """
    found: dict[int, nn.Module] = {}
    for each in bypassed:
        module = model.get_submodule(each.module)
        found[id(module)] = each.made().train(module.training)
    return found
