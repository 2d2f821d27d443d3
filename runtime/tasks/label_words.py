"""Text classification by label words: the model fills the label into a template.

A causal model reads the template up to ``{label}`` and its next token is compared over the label words; a
masked model reads the whole template with its mask token in place of ``{label}``. The template is the same
for every row, so where a row is too long its text is cut and the template stays whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zoedge.bundle import Bundle
from zoedge.errors import BundleError, DataError

from ..data.example import Array, Example
from ..data.record import Record
from . import fields
from .labels import Labels
from .template import Template, fit_template
from .text_classification import token_inputs
from .tokenizer import Encoded, Side, TextTokenizer


class LabelWords:
    """Records with the fields of the bundle's template (``{text}``: the record's text) and ``label``.

    Args:
        bundle: the bundle.
        side: the end that texts lose which are too long.

    Raises:
        BundleError: the template doesn't fit the model.
    """

    def __init__(self, bundle: Bundle, side: Side | None = None) -> None:
        self._side: Side = side or "right"
        self._tokenizer = TextTokenizer(bundle, self._side)
        self._labels = Labels(bundle.manifest)
        self._ports = frozenset(port.name for port in bundle.manifest.inputs)
        template = self._tokenizer.text.template or ""
        self._template = Template(template)
        self._mask_id = self._tokenizer.text.mask_id
        if self._mask_id is None and not self._template.ends_in_label:
            raise BundleError(
                f"the template {template!r} shows fields after {{label}}, where a causal model can't "
                f"see them: export with another --template"
            )

    def encode(self, record: Record, *, labelled: bool = True) -> Example:
        """Return token inputs int64 [tokens], label_positions int64 [1] and labels int64 []."""
        values = self._template.values(record)
        longest = self._tokenizer.text.max_length
        fitting = fit_template(
            values, self._tokenizer.spans, lambda v: len(self._encode(v)[0].ids), longest, self._side
        )
        if fitting is None:
            raise DataError(
                f"{record.where} leaves no room for its text: the template alone takes more than "
                f"{longest} tokens, so export with a larger --max-seq-length or a shorter --template"
            )
        encoded, position = self._encode(fitting)
        cut = 0 if fitting == values else len(self._encode(values)[0].ids) - len(encoded.ids)
        label = self._labels.index(fields.label(record), record.where) if labelled else 0
        inputs = token_inputs(encoded, record.where, self._tokenizer.text.token_types)
        inputs["label_positions"] = np.array([position], np.int64)
        wanted = {name: array for name, array in inputs.items() if name in self._ports}
        return Example(wanted, {"labels": np.array(label, np.int64)}, len(encoded.ids), cut)

    def prediction(self, example: Example, outputs: Mapping[str, Array]) -> dict[str, Any]:
        """Return ``label`` and ``score``, its probability among the label words."""
        return self._labels.best(outputs["logits"])

    def _encode(self, values: Mapping[str, str]) -> tuple[Encoded, int]:
        """Return the tokens and the position whose logits are over the label."""
        before, after = self._template.render(values)
        if self._mask_id is None:
            # the label words carry their leading space, so the prompt ends without one
            ids = [*self._tokenizer.prefix, *self._tokenizer.ids(before.rstrip(" "))]
            return Encoded(ids, [0] * len(ids), [0] * len(ids)), len(ids) - 1
        mask = self._tokenizer.token(self._mask_id)
        encoded = self._tokenizer.encode(f"{before}{mask}{after}")
        masks = [i for i, token in enumerate(encoded.ids) if token == self._mask_id]
        return encoded, masks[before.count(mask)]  # the text may hold mask tokens of its own
