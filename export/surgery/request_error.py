"""The error of a request that a graph can't fulfil; what would work on that graph is found by trying."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zoedge.errors import InputError, near_names


class RequestError(InputError):
    """Raised where ``--train``, ``--target-modules`` or ``--quantize`` don't fit a graph.

    Attributes:
        problem: the sentence, without a remedy.
        meant: values of the same option that the user may have meant.
        option: "train", "target_modules" or "quantize".
    """

    def __init__(self, problem: str, option: str = "train", meant: Sequence[str] = ()) -> None:
        super().__init__(problem)
        self.problem, self.option, self.meant = problem, option, tuple(meant)

    @classmethod
    def misspelt(cls, problem: str, name: str, known: Iterable[str], option: str = "train") -> RequestError:
        """Return the error of a name that is none of ``known``."""
        return cls(problem, option, near_names(name, known))
