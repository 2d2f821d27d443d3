"""The types of ``bundle.json``: everything the device needs to know about a bundle, decoded and validated.

Unknown keys are errors, so that a typo or a newer writer is noticed and not ignored.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable
from typing import Literal

import msgspec

FORMAT_VERSION = 3  # 1: what export adds to the graphs has its plain names there
TELLS_APART = 3  # since when a branch tells its kind, and why merging keeps it apart
MANIFEST_FILE = "bundle.json"
WEIGHTS_FILE = "weights.safetensors"  # the source's tensors, each once, under its own name
ADAPTERS_FILE = "adapters.safetensors"  # tensors that export added: LoRA factors, a new head
MODEL_FILE = "model.onnx"  # inference as a user deploys it, without adapters
ACTIVATIONS_FILE = "activations.onnx"  # model inputs -> what flows into and out of each LoRA target
ADAPTED_MODEL_FILE = "model_adapters.onnx"  # the same with the adapters as optional inputs
MERGED_MODEL_FILE = "model_merged.onnx"  # the same with the branches that stay apart as constants
LOSS_FILE = "loss.onnx"  # inputs + targets -> per-example loss
PREFIX_FILE = "prefix.onnx"  # the part of it that no trainable tensor reaches: inputs -> Stages.crossing
SUFFIX_FILE = "suffix.onnx"  # the rest, for several points at once
FEW_ROWS_FILE = "loss_few_rows.onnx"  # the same as the loss graph, faster for few rows

_SHOWN = 5  # names in a message
SETTING = "settings of one number"  # why a tensor is frozen that is no parameter at all

Quantize = Literal["none", "int8", "int4"]  # how export stores frozen matrices
Dim = int | str  # a fixed size, or the name of a dynamic axis


class Port(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A graph input or output. ``dtype`` is NumPy's name ("float32", "int64")."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]


class Parameter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One row of the parameter table; ``name`` is the model's own."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str = WEIGHTS_FILE  # which of the two safetensors files holds it
    trainable: bool = False
    group: str = (
        "other"  # embedding | attention | mlp | norm | bias | conv | head | other, or a kind of adapter
    )
    decay: bool = True  # False for biases and norms, which published methods exempt from weight decay
    tied_to: tuple[str, ...] = ()  # other names of the source that denote the same tensor
    live: bool = True  # whether the loss depends on it


class Frozen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A tensor that the loss depends on and no run can train, and why not."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    reason: str  # "running statistics", "stored as float16", "settings of one number"

    @property
    def size(self) -> int:
        """How many parameters it counts for: a single number that is a setting is none."""
        return 0 if self.reason == SETTING else math.prod(self.shape)


class Branch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What is trained beside a frozen matrix; ``adapters.ADAPTERS`` has the kinds, which give these their meaning."""

    kind: str  # "lora"
    module: str  # the source's module path, "encoder.layer.0.attention.self.query"
    weight: str  # name of the matrix in the parameter table
    transposed: bool  # True where that matrix is stored as [in, out]
    shape: tuple[int, int]  # of the layer: (out, in)
    tensors: dict[str, str]  # what the kind calls a trained tensor -> its name
    settings: dict[str, float] = {}
    apart: str = (
        ""  # why it can't be added to that matrix, behind "that": "is stored as int8"; "" where it can
    )
    unmergeable: bool = False  # no matrix could take it in, whatever its type: its kind isn't linear
    rounded: bool = (
        False  # formats before 3: the graph rounds that matrix, and no graph keeps the branch apart
    )
    also: tuple[str, ...] = ()  # other modules of the source that have the same matrix, and so the branch
    of_lookup: bool = False  # the source's module of that name is an embedding, where PEFT has other branches


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The last linear layer of a classifier: logits = features @ weight.T + bias."""

    weight: str  # [classes, width]
    bias: str | None = None
    features: str = "features"  # loss graph output [batch, width] that feeds it
    fresh: bool = False  # True: export made it, so tuning initialises it
    transposed: bool = False  # True where the weight is stored as [width, classes]


class QuantizedMatrix(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """A matrix of the source that the graphs read as integers; ``values`` and ``scale`` are in the weights file.

    int8: values int8 [in, out], scale float32 [out]. int4: values uint8 [out, blocks, block / 2], two codes a
    byte, the earlier input in the low bits; scale float32 [out * blocks]; w = (code - 8) * scale.
    """

    name: str  # the source's own
    values: str
    scale: str
    shape: tuple[int, ...]  # as the source stores it
    transposed: bool  # True where that is [in, out]


class Quantization(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Which frozen matrices export rounded, and what that does to the loss (both measured at export)."""

    kind: str  # int8 | int4
    matrices: tuple[QuantizedMatrix, ...]
    error: float = (
        0.0  # root mean square of the change of the logits (of a fresh head: of its features) over theirs
    )
    noise: float = 0.0  # standard deviation of a loss around the smooth function it rounds
    least_eps: float = 0.0  # perturbation of the trainables whose two losses differ by 3 times their noise

    def __str__(self) -> str:
        size = sum(math.prod(matrix.shape) for matrix in self.matrices)
        return (
            f"{self.kind}: {len(self.matrices)} matrices of {size:,} elements; what the model computes is off by "
            f"{100 * self.error:.2g} %; rounding makes losses uneven by {self.noise:.1e}: use --eps "
            f"{self.least_eps:.0e} or more (measured on random inputs)"
        )


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """How text becomes token ids. The tokenizer itself is ``tokenizer.json`` in the bundle."""

    max_length: int
    pad_id: int
    template: str | None = None  # "{text} It was {label}": classification by label words
    label_word_ids: tuple[int, ...] = ()  # one token id per label, in the order of Manifest.labels
    mask_id: int | None = None  # masked models: the id of the mask token
    bos_id: int | None = None  # causal models: prepended when the tokenizer doesn't do it itself
    eos_id: int | None = None  # causal models: ends a completion
    token_types: bool = False  # sentence pairs get token_type_ids 0 and 1


class Image(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """How an image becomes ``pixel_values`` [channels, height, width]: (x * rescale - mean) / std per channel."""

    channels: int
    height: int
    width: int
    rescale: float = 1.0 / 255.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Where the model came from, for the record."""

    kind: str  # huggingface | torch | onnx
    name: str
    revision: str | None = None
    architecture: str | None = None
    versions: dict[str, str] = {}  # of the packages that exported it


class Stages(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The loss graph in two parts; the second takes LoRA factors [points, ...] and points x batch rows."""

    crossing: tuple[str, ...] = ()  # values from the first part to the second, all with the batch first


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The whole of ``bundle.json``.

    ``inputs`` and ``targets`` together are the inputs of the loss graph (what export adds to it has other names
    inside: ``names.py``). Its outputs always hold ``loss``
    (float32 [batch], each example's own mean loss) and ``weight`` (float32 [batch], what the host's mean
    weighs it with: 1, or the number of label tokens); a task adds ``logits``, ``features``, ``predictions``
    (the last empty unless the optional input ``predict`` is true).
    """

    format: int
    zoedge: str
    task: str  # text-classification | text-generation | fill-mask | image-classification | classification | regression
    loss: str  # cross-entropy | mse | bce-with-logits | token-cross-entropy
    source: Source
    inputs: tuple[Port, ...]
    targets: tuple[Port, ...]
    outputs: tuple[Port, ...]  # of the loss graph
    model_inputs: tuple[Port, ...]  # of model.onnx
    model_outputs: tuple[Port, ...]
    parameters: tuple[Parameter, ...]
    frozen: tuple[Frozen, ...] = ()  # what else the loss depends on
    branches: tuple[Branch, ...] = ()
    stages: Stages | None = None
    head: Head | None = None
    quantization: Quantization | None = None
    labels: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()  # of the only input's elements in order, where the source tells
    text: Text | None = None
    image: Image | None = None
    files: dict[str, str] = {}  # every other file of the bundle -> its sha256

    @property
    def trainable(self) -> tuple[Parameter, ...]:
        """The parameters that tuning may change, in table order."""
        return tuple(p for p in self.parameters if p.trainable)

    @property
    def factors(self) -> tuple[str, ...]:
        """Names of what is trained of the branches, in order."""
        return tuple(name for branch in self.branches for name in branch.tensors.values())

    @property
    def kept_apart(self) -> tuple[Branch, ...]:
        """The branches that merging keeps as products of constants: those that ``MERGED_MODEL_FILE`` has."""
        if self.format < TELLS_APART:
            return self.branches if MERGED_MODEL_FILE in self.files else ()
        return tuple(branch for branch in self.branches if branch.apart)

    def no_floats_of(self, stored: Container[str]) -> tuple[Branch, ...]:
        """Return the branches that a float file of the source's tensors can't hold.

        Args:
            stored: names of the tensors in the weights file.
        """
        matrices = () if self.quantization is None else self.quantization.matrices
        rounded = {matrix.values for matrix in matrices if matrix.name not in stored}
        apart = self.kept_apart
        return tuple(branch for branch in apart if branch.unmergeable or branch.weight not in rounded)

    @property
    def trained_elements(self) -> int:
        """How many elements tuning may change."""
        return sum(math.prod(p.shape) for p in self.trainable)

    @property
    def elements(self) -> int:
        """How many elements the loss depends on, trainable or not; those of rounded matrices as before rounding."""
        matrices = () if self.quantization is None else self.quantization.matrices
        known = {matrix.values: math.prod(matrix.shape) for matrix in matrices}
        known |= {b.weight: math.prod(b.shape) for b in self.branches}  # 4-bit codes share bytes
        parameters = sum(known.get(p.name, math.prod(p.shape)) for p in self.parameters if p.live)
        return parameters + sum(known.get(row.name, row.size) for row in self.frozen)


def said_apart(branches: Iterable[Branch]) -> str:
    """Return which branches stay apart, and why, in words; "" where none do."""
    modules: dict[str, list[str]] = {}
    for branch in branches:
        modules.setdefault(branch.apart, []).append(branch.module)
    modules.pop("", None)
    return "; ".join(f"{_some(names)} beside a matrix that {why}" for why, names in modules.items())


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
