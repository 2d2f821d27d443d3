"""At some steps nothing moves but how far each matrix has gone (DiZO)."""

from __future__ import annotations

from zoedge.errors import InputError
from zoedge.methods import support as declared

from .parts import Moved, Parts, Theta


class ProjectionNarrowing:
    """At some steps nothing moves but the scalars of the matrices that are projected.

    Raises:
        InputError: none of them is tuned.
    """

    reads_theta = masks = False

    def __init__(self, declaration: declared.Projection, moved: Moved, seed: int) -> None:
        self._projection, self._projected = declaration, frozenset(moved.projected)
        if not self._projected:
            what = (
                "matrices"
                if declaration.which == "all"
                else f"{' and '.join(declaration.which.split('-'))} matrices"
            )
            remedy = "use --method mezo" if declaration.which == "all" else "give --project all"
            raise InputError(f"dizo projects {what}, and none is tuned by such a name: {remedy}")

    def narrow(self, step: int, parts: Parts, theta: Theta) -> Parts:
        """Return all of a usual step's parts, or the projected ones."""
        turn = step % self._projection.cycle
        if turn < self._projection.every:
            return parts
        first = step - turn + self._projection.every
        return {n: p._replace(projection=first) for n, p in parts.items() if n in self._projected}
