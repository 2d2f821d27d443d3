"""What every kind of source hands to the rest of the export: an inference graph, its tensors and settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from zoedge.manifest import Image, Quantization, Source, Text

if TYPE_CHECKING:
    import onnx

    Arrays = dict[str, np.ndarray]
    Reference = Callable[[Mapping[str, np.ndarray]], Arrays]
    SampleInputs = Callable[[np.random.Generator, int, int], Arrays]


@dataclass
class Exported:
    """A model on its way into a bundle.

    Attributes:
        model: inference graph. Each tensor of ``weights`` that it uses is an initializer of that name with
            ``data_location`` EXTERNAL and no data; other small constants are inline.
        weights: every tensor once by its own name, C-contiguous (views and memory maps are welcome).
        parameters: names of the float tensors that may be trained.
        tied: name in ``weights`` -> the source's other names of the same tensor.
        lookups: names, of ``weights`` or ``tied``, that are an embedding's in the source.
        task: a task of the manifest.
        loss: a loss of the manifest.
        logits: name of the output of ``model`` that the loss is computed from.
        labels: class names in the order of the logits; empty where the task has no classes.
        feature_names: of the elements of the only input in order; empty where the source doesn't tell.
        text: how text becomes token ids; None where the model doesn't read text.
        image: how an image becomes pixel values; None where the model doesn't read images.
        source: where the model came from.
        fresh_head: (weight, bias) when export made the classifier, so that tuning initialises it.
        files: name -> bytes of tokenizer and configuration files, as the source had them.
        quantization: which matrices of the source export rounded; None where it rounded none.
        reference: the source's own outputs for model inputs: torch's, or for an ``.onnx`` file those of
            onnxruntime on the original; ``logits`` is among them.
        early_rows: whether the loss graph computes the last layer for labelled positions only.
        batch_axes: input or ``logits`` -> axis of ``model`` that is the batch, where it isn't the first. The
            graphs that tuning runs take and give the batch first.
        head_output: the value that the last layer makes, where logits are made of it; "" where they are it.
        rounded: whether the logits are logarithms of probabilities, which show how those are rounded.
        positions: the longest sequence of tokens that the model takes; None where that isn't known.
        sample_inputs: (generator, batch, length) -> fresh valid inputs of ``model``.
    """

    model: onnx.ModelProto
    weights: Arrays
    parameters: tuple[str, ...]
    task: str
    loss: str
    logits: str
    source: Source
    sample_inputs: SampleInputs
    reference: Reference
    tied: dict[str, tuple[str, ...]] = field(default_factory=dict)
    lookups: frozenset[str] = frozenset()
    labels: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    text: Text | None = None
    image: Image | None = None
    fresh_head: tuple[str, str] | None = None
    quantization: Quantization | None = None
    early_rows: bool = True
    batch_axes: dict[str, int] = field(default_factory=dict)
    head_output: str = ""
    rounded: bool = False
    positions: int | None = None
    files: dict[str, bytes] = field(default_factory=dict)

    def rows_first(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """Return the values of ``model`` as the graphs that tuning runs have them: the batch is the first axis."""
        return {name: _to_front(array, self.batch_axes.get(name, 0)) for name, array in arrays.items()}


def _to_front(array: np.ndarray, axis: int) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(array, axis, 0)) if axis else array
