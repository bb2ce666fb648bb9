"""What can be wrong with a command line, beyond what the library refuses."""

from __future__ import annotations

from dataclasses import dataclass

from excise.errors import ExciseError


@dataclass(eq=False)
class RequestError(ExciseError):
    """An argument does not name what it should name."""

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
