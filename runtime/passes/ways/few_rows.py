"""On which side of their products trained matrices are: a matter of how many rows a pass has."""

from __future__ import annotations

from typing import ClassVar

from zoedge.errors import InputError
from zoedge.manifest import FEW_ROWS_FILE

from ..prefix_cache import PrefixCache
from ..probing import Forward
from .situation import Situation
from .use import FormUse

# From the left, 8 to 64 rows took 0.5 to 0.9 of the time and 128 as long (single products, AVX-512; 2, 3 and 96 were
# not measured); one row is a vector, for which nothing is packed either way. No timing decides: the order changes how
# sums are rounded, and the same command is to give the same losses again.
FEWEST, MOST = 2, 96


class FewRows(FormUse):
    """Trained matrices on the left: by the rows of a step's largest pass, or as ``--few-rows`` asks."""

    setting: ClassVar[str] = "few_rows"

    def usable(self, situation: Situation) -> bool:
        """Return whether the graph is there and faster for the run's rows, or is asked for.

        Raises:
            InputError: the graph that was asked for isn't in the bundle.
        """
        asked = situation.options.few_rows
        if not situation.device.opens(FEW_ROWS_FILE):
            if asked == "yes":
                raise InputError(
                    f"--few-rows yes is of no use with --provider {situation.options.provider}: leave it out"
                )
            return False
        there = FEW_ROWS_FILE in situation.bundle.manifest.files
        if asked == "yes" and not there:
            raise InputError(
                f"--few-rows yes needs {FEW_ROWS_FILE}, and {situation.bundle.folder} has none: leave it out"
            )
        few = there and situation.rows is not None and FEWEST <= situation.rows <= MOST
        return few if asked == "auto" else asked == "yes"

    def open(self, situation: Situation, cache: PrefixCache | None = None) -> Forward:
        """Open the graph."""
        return situation.engine(FEW_ROWS_FILE)


USE = FewRows()
