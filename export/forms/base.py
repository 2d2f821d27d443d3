"""What a form's module makes: graphs, and how they are shown to compute what ``loss.onnx`` does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import onnx

from zoedge.manifest import Manifest

from ..assemble import Assembled
from ..exported import Exported


class Agrees(Protocol):
    """Tells whether written graphs give the losses of ``loss.onnx``."""

    def __call__(self, folder: Path, exported: Exported, manifest: Manifest, tolerance: float) -> bool:
        """Run both on fresh inputs.

        Args:
            folder: holds the graphs and tensors of a bundle, which must stay as they are.
            exported: the source, for inputs.
            manifest: of the bundle, as it is without this form.
            tolerance: of the largest loss.

        Raises:
            ZoedgeError: they don't, or onnxruntime can't run them: as good as False.
        """


@dataclass(frozen=True)
class FormGraphs:
    """A form that was built.

    Attributes:
        graphs: file -> finished graph; what the bundle's weights file holds is read from there.
        agrees: tells whether they are worth having.
        left_out: what the user is told where they aren't.
        facts: fields of the manifest that the form fills.
    """

    graphs: Mapping[str, onnx.ModelProto]
    agrees: Agrees
    left_out: str
    facts: Mapping[str, Any] = field(default_factory=dict)


class Build(Protocol):
    """The function ``build`` of a form's module."""

    def __call__(self, exported: Exported, assembled: Assembled, manifest: Manifest) -> FormGraphs | None:
        """Build a form; None where it would save nothing.

        Args:
            exported: the source.
            assembled: the bundle's other graphs; not changed.
            manifest: of the bundle with all but this form and those that stand behind it in the table.
        """


def never(folder: Path, exported: Exported, manifest: Manifest, tolerance: float) -> bool:
    """Leave a form out of which is known already that it can't be had."""
    return False
