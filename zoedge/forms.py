"""The forms of the loss graph besides ``loss.onnx``, in the order in which they are written and tried.

Both sides of a form are named and not imported: export and runtime never import each other.
"""

from __future__ import annotations

from typing import NamedTuple

from .counterparts import FLOAT16, INPUTS, counterparts
from .manifest import FEW_ROWS_FILE, PREFIX_FILE, SUFFIX_FILE


class Form(NamedTuple):
    """One form.

    Attributes:
        files: what it may write into a bundle.
        export: the module that writes it, by its function ``build``: see ``export/forms/base.py``.
        runtime: the module that runs it, by its ``USE``: see ``runtime/passes/ways/use.py``. None for one that a
            device opens in place of the others, whatever way it takes.
    """

    files: tuple[str, ...]
    export: str
    runtime: str | None


WHOLE = "whole"  # loss.onnx itself
FEW_ROWS = "few-rows"

FORMS: dict[str, Form] = {
    FEW_ROWS: Form((FEW_ROWS_FILE,), "zoedge.export.forms.few_rows", "zoedge.runtime.passes.ways.few_rows"),
    "two-parts": Form(
        (PREFIX_FILE, SUFFIX_FILE), "zoedge.export.forms.two_parts", "zoedge.runtime.passes.ways.two_parts"
    ),
    # of all that stand above but for the few rows
    INPUTS: Form(counterparts(INPUTS), "zoedge.export.forms.inputs", None),
    FLOAT16: Form(counterparts(FLOAT16), "zoedge.export.forms.half", None),
}
