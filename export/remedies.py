"""What can be asked of a file where a request can't be fulfilled: every remedy is tried before it is named."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from zoedge.adapters import LORA, PREFIX, PROMPT, PromptOptions
from zoedge.errors import ZoedgeError

from .adapters.base import BranchSettings, with_room
from .assemble import Request, assemble
from .exported import Exported
from .quantized import quantized
from .surgery.graph import Graph
from .surgery.linears import find_linears, integer_products
from .surgery.request_error import RequestError
from .surgery.trainables import quantized_op
from .writer import write_graphs

_NAMED = 3  # remedies in a message
_TENSORS = 8  # that are tried by name
_WRITTEN_BYTES = 1 << 26  # sources up to this size are written and run to see a remedy work


@dataclass(frozen=True)
class _Remedy:
    """A request, and how a message names it; ``last`` where it is only of use if nothing else works."""

    said: str
    request: Request
    quantize: str
    last: bool = False


def advice(source: Exported, request: Request, quantize: str, error: RequestError) -> str:
    """Return how to go on after ``error``, to be put behind its sentence.

    Args:
        source: as it was read, before ``quantize``.
        request: what was asked for.
        quantize: none, int8 or int4.
        error: why it can't be had.
    """
    meant = [
        value for value in error.meant if _works(source, *_meant(request, quantize, error.option, value))
    ]
    if meant:
        return f"; did you mean {', '.join(meant)}?"
    found: list[str] = []
    for remedy in _remedies(source, request, quantize, error.option):
        if len(found) == _NAMED:
            break
        if (not found or not remedy.last) and _works(source, remedy.request, remedy.quantize):
            found.append(remedy.said)
    if not found:
        return f": {_why_nothing(Graph(source.model))}"
    return f": use {', '.join(found[:-1])}{' or ' if found[:-1] else ''}{found[-1]}"


def _meant(request: Request, quantize: str, option: str, value: str) -> tuple[Request, str]:
    if option == "target_modules":
        return replace(request, branches=replace(request.branches, targets=(value,))), quantize
    return replace(request, train=(value,)), quantize


def _remedies(source: Exported, request: Request, quantize: str, option: str) -> Iterator[_Remedy]:
    """Yield what may work, the likeliest wish first."""
    without = _Remedy("--quantize none", request, "none")
    if option == "quantize":
        yield without
    else:
        yield from _requests(source, request, quantize)
    if quantize != "none":
        if option != "quantize":
            yield without
        for remedy in _requests(source, request, "none"):
            yield replace(remedy, said=f"--quantize none {remedy.said}", last=True)


def _requests(source: Exported, request: Request, quantize: str) -> Iterator[_Remedy]:
    plain = replace(request.branches, targets=None) if request.branches.kind == LORA else BranchSettings()
    lora = "--train lora" if request.branches.targets is None else "--train lora without --target-modules"
    if request.branches.kind == PREFIX:
        yield _Remedy(
            f"--train {PROMPT}", Request((PROMPT,), BranchSettings(PromptOptions(), None, PROMPT)), quantize
        )
    yield _Remedy(lora, Request(("lora",), plain), quantize)
    for entry in ("full", "head", "bitfit", "norm"):
        yield _Remedy(f"--train {entry}", Request((entry,), plain), quantize)
    for module in dict.fromkeys(linear.module for linear in reversed(find_linears(Graph(source.model)))):
        targets = replace(plain, targets=(module,))
        yield _Remedy(
            f"--train lora --target-modules {module}", Request(("lora",), targets), quantize, last=True
        )
    for name in list(reversed(source.parameters))[:_TENSORS]:
        yield _Remedy(f"--train {name}", Request((name,), plain), quantize, last=True)


def _works(source: Exported, request: Request, quantize: str) -> bool:
    try:
        exported = with_room(quantized(source, quantize, request.train), request.branches)
        assembled = assemble(exported, request)
        if sum(array.nbytes for array in exported.weights.values()) <= _WRITTEN_BYTES:
            with tempfile.TemporaryDirectory() as folder:
                write_graphs(Path(folder), exported, request, assembled)
    except ZoedgeError:
        return False
    return True


def _why_nothing(graph: Graph) -> str:
    """Return why nothing of a file can be tuned, and what may be done about the file."""
    integer, op = integer_products(graph), quantized_op(graph)
    if integer:
        return (
            f"nothing of this file can be tuned, as its weights are integers that {', '.join(integer)} multiplies; "
            "quantise the model in the QDQ format (QuantizeLinear and DequantizeLinear), dynamically, or its weights "
            "alone"
        )
    if op is not None:
        return f"nothing of this file can be tuned, as its weights are integers that {op} reads: export it in float32"
    kinds = sorted({node.op_type for node in graph.nodes if node.domain == "ai.onnx.ml"})
    if kinds:
        return (
            "nothing of this file can be tuned: it has no tensors of weights that the loss depends on, and what "
            f"{', '.join(kinds)} learnt are settings of the operator"
        )
    return "nothing of this file can be tuned: it has no float32 weights that the loss depends on"
