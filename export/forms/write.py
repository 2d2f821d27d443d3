"""The loss graph in other forms, which a run takes where they are faster: written where they compute the same."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import cast

from msgspec import structs

from zoedge.errors import ZoedgeError
from zoedge.forms import FORMS, Form
from zoedge.manifest import Manifest

from ..assemble import Assembled
from ..exported import Exported
from ..external import write_graph
from ..tensor_writer import Written
from ..verify import COARSE_TOLERANCE, TOLERANCE
from .base import Build, FormGraphs


def write_forms(
    folder: Path,
    exported: Exported,
    assembled: Assembled,
    manifest: Manifest,
    weights: Written,
    *,
    coarse: bool,
    say: Callable[[str], None],
) -> Manifest:
    """Write what there is, and return the manifest that says so.

    Args:
        folder: of the bundle, with all but these files.
        exported, assembled, manifest: what it holds.
        weights: where tensors lie in the weights file.
        coarse: the source computes with float16 or quantised activations.
        say: is told which form doesn't compute the same and is left out.
    """
    tolerance = COARSE_TOLERANCE if coarse else TOLERANCE
    for name, form in FORMS.items():
        made = _builder(form)(exported, assembled, manifest)
        if made is None:
            continue
        if not set(form.files).issuperset(made.graphs):
            raise ValueError(
                f"the form {name} writes {sorted(made.graphs)} and is said to write {form.files}"
            )
        digests = {
            file: write_graph(folder, file, graph, weights, None) for file, graph in made.graphs.items()
        }
        if _agrees(made, folder, exported, manifest, tolerance):
            files = dict(sorted((manifest.files | digests).items()))
            manifest = structs.replace(manifest, files=files, **made.facts)
        else:
            for file in digests:
                (folder / file).unlink()
            say(made.left_out)
    return manifest


def _builder(form: Form) -> Build:
    return cast("Build", import_module(form.export).build)


def _agrees(made: FormGraphs, folder: Path, exported: Exported, manifest: Manifest, tolerance: float) -> bool:
    try:
        return made.agrees(folder, exported, manifest, tolerance)
    except ZoedgeError:  # InputError is one: a graph that can't be run, or shapes that don't fit
        return False
