"""``zoedge export`` for Python: one call from a model to a bundle."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from zoedge.adapters import ADAPTERS, LORA
from zoedge.bundle import Bundle
from zoedge.errors import InputError, near
from zoedge.files import check_new_folder
from zoedge.manifest import Quantize
from zoedge.settings import convert, facts, flag

from .sources.packages import need

if TYPE_CHECKING:
    from torch import nn

    from .adapters.base import BranchSettings
    from .exported import Exported

DEFAULT_TRAIN = ("lora",)

Exporter = Literal["torch", "optimum"]

_log = logging.getLogger("zoedge.export")


def to_bundle(
    model: str | Path | nn.Module,
    output: str | Path,
    *,
    task: str | None = None,
    train: Sequence[str] = DEFAULT_TRAIN,
    target_modules: Sequence[str] | None = None,
    quantize: Quantize = "none",
    max_seq_length: int | None = None,
    labels: Sequence[str] = (),
    template: str | None = None,
    revision: str | None = None,
    output_name: str | None = None,
    loss: str | None = None,
    example_inputs: Mapping[str, Any] | None = None,
    dynamic_shapes: Mapping[str, Mapping[int, str]] | None = None,
    exporter: Exporter = "torch",
    say: Callable[[str], None] = _log.warning,
    **of_adapter: Any,
) -> Bundle:
    """Turn a model into a bundle that ``zoedge tune`` trains with forward passes alone.

    The folder appears under its name only after onnxruntime has agreed with the source on fresh inputs and
    every trainable tensor has been seen to change the loss.

    Args:
        model: hub id, Hugging Face folder, path of an ``.onnx`` file or of a folder with one, or torch module.
        output: the bundle's folder, which must not exist.
        task: as in the manifest; None reads it from the model or the loss.
        train: any of "full", "bitfit", "norm", "head", a kind of adapter ("lora", ...) and name patterns (fnmatch,
            or a part of a parameter's name). A head that export makes is trained in any case.
        target_modules: fnmatch patterns on module paths or their last part; None: all but embeddings, heads, or
            those that suit the kind of adapter.
        quantize: "int8" or "int4" rounds the frozen matrices of linear layers; "none" leaves them.
        max_seq_length: text models: longest text in tokens.
        labels: class names in the order of the logits; with a template, the label words.
        template: text models: "{text} It was {label}", classification by label words.
        revision: hub ids: branch, tag or commit.
        output_name: ``.onnx`` files and modules: the output that the loss is computed from.
        loss: ``.onnx`` files and modules: cross-entropy, bce-with-logits or mse.
        example_inputs: modules: one example of each input; ``.onnx`` files: arrays to imitate in checks.
        dynamic_shapes: modules: input -> axis -> name of the dimension.
        exporter: Hugging Face models: "torch" traces them with torch's own exporter, "optimum" exports them
            with optimum, for the architectures and tasks that it knows.
        say: is told what the user should know; warnings of the logger "zoedge.export" by default.
        of_adapter: settings of the kind of adapter, as ``zoedge export --help`` lists them: ``lora_rank=4``.

    Returns:
        The bundle, opened.

    Raises:
        InputError: the model can't be read, exported or run, or an option doesn't fit it.
        MissingPackageError: a package that this kind of model needs isn't installed.
        ZoedgeError: the exported graph doesn't compute what the model does.
    """
    options = {
        "task": task,
        "labels": _listed("labels", labels),
        "template": template,
        "max_seq_length": max_seq_length,
        "revision": revision,
        "output_name": output_name,
        "loss": loss,
        "example_inputs": example_inputs,
        "dynamic_shapes": dynamic_shapes,
        "exporter": _exporter(exporter),
    }
    targets = None if target_modules is None else _listed("target_modules", target_modules)
    wanted = _Wanted(_listed("train", train), of_adapter, targets, quantize)
    return _write(
        model, Path(output), {n: value for n, value in options.items() if _is_given(value)}, wanted, say
    )


def _is_given(value: object) -> bool:
    # whatever isn't of these kinds is an error, which is told where the value is used
    return bool(value) if isinstance(value, str | int | tuple | Mapping) else value is not None


class _Wanted(NamedTuple):
    """What is to be trained, in the user's words."""

    train: tuple[str, ...]
    of_adapter: dict[str, Any]
    target_modules: tuple[str, ...] | None
    quantize: str


def _write(
    model: str | Path | nn.Module,
    output: Path,
    given: dict[str, Any],
    wanted: _Wanted,
    say: Callable[[str], None],
) -> Bundle:
    """Check what is cheap to check, then read and write."""
    need("onnx", purpose="exporting a model", extra="onnx")
    need("onnxruntime", purpose="checking an exported model", extra="cpu")
    from .assemble import Request
    from .quantized import quantized
    from .remedies import advice
    from .surgery.request_error import RequestError
    from .writer import write_bundle

    check_new_folder(output)
    request = Request(wanted.train, _branches(wanted, say))
    source = _read(model, given, wanted.train, say)
    try:
        return write_bundle(quantized(source, wanted.quantize, wanted.train), request, output, say)
    except RequestError as error:
        raise InputError(f"{error.problem}{advice(source, request, wanted.quantize, error)}") from error


def _branches(wanted: _Wanted, say: Callable[[str], None]) -> BranchSettings:
    """Return what branches are to be; settings of other kinds are said to have no effect.

    Raises:
        InputError: a setting that no kind has, or a value that can't be used.
    """
    from .adapters.base import BranchSettings

    kind = _kind(wanted.train)
    kinds = {name: other for other in ADAPTERS for name in facts(ADAPTERS[other].options)}
    for name in wanted.of_adapter:
        if name not in kinds:
            raise InputError(f"an export has no setting {name!r}{near(name, kinds)}")
        if kinds[name] != kind:
            say(f"{flag(name)} has no effect here: {kinds[name]} has it, which --train doesn't name")
    options = ADAPTERS[kind].options
    own = {name: value for name, value in wanted.of_adapter.items() if kinds[name] == kind}
    return BranchSettings(convert(own, options, "the options"), wanted.target_modules, kind)


def _kind(train: Sequence[str]) -> str:
    """Return the kind of the branches; there is one."""
    kinds = [entry for entry in dict.fromkeys(train) if entry in ADAPTERS]
    if len(kinds) > 1:
        raise InputError(f"--train names {' and '.join(kinds)}, and a matrix gets one adapter: leave one out")
    return kinds[0] if kinds else LORA


def _read(
    model: str | Path | nn.Module, given: dict[str, Any], train: tuple[str, ...], say: Callable[[str], None]
) -> Exported:
    """Give the model to the source of its kind, which imports only what it needs."""
    if not isinstance(model, str | Path):
        if not hasattr(model, "state_dict"):
            raise InputError(
                f"model is a {type(model).__name__}: give a hub id, a folder, an .onnx file (of a scikit-learn model, "
                "skl2onnx makes one) or a torch module"
            )
        _check_options(given, "a torch module", "template", "max_seq_length", "revision", "exporter")
        if "task" not in given or "example_inputs" not in given:
            missing = "task" if "task" not in given else "example_inputs"
            raise InputError(
                f'a torch module needs {missing}: to_bundle(module, output, task="classification" or "regression", '
                'example_inputs={"name of an argument of forward": array})'
            )
        if not isinstance(given["example_inputs"], Mapping):
            raise InputError(
                f"example_inputs is a {type(given['example_inputs']).__name__} and must tell each argument of forward "
                'by its name: example_inputs={"x": array}'
            )
        from .sources.torch_module import from_module

        return from_module(model, given.pop("example_inputs"), **given, say=say)
    file = _onnx_file(Path(model), say)
    if file is not None:
        return _read_onnx(file, given, train, say)
    _check_options(given, "a Hugging Face model", "output_name", "loss", "example_inputs", "dynamic_shapes")
    from .sources.huggingface import from_huggingface

    return from_huggingface(model, **given)


def _onnx_file(model: Path, say: Callable[[str], None]) -> Path | None:
    """Return the ``.onnx`` file that is meant, itself or by its folder; None for anything else."""
    if model.is_dir():
        from .sources.onnx_folder import onnx_in

        return onnx_in(model, say)
    return model if model.suffix == ".onnx" else None


def _read_onnx(
    file: Path, given: dict[str, Any], train: tuple[str, ...], say: Callable[[str], None]
) -> Exported:
    """Read an ``.onnx`` file: rows are texts where a tokenizer lies beside it, unless arrays are asked for."""
    _check_options(given, "an .onnx file", "revision", "dynamic_shapes", "exporter")
    from .sources.onnx_text import from_onnx_text, text_folder
    from .sources.onnx_text_task import ARRAYS

    folder = None if given.get("task") == ARRAYS or "example_inputs" in given else text_folder(file)
    if folder is not None:
        return from_onnx_text(file, folder, **given, named=train, say=say)
    _check_options(given, "an .onnx file without a tokenizer.json beside it", "template", "max_seq_length")
    from .sources.onnx_file import from_onnx

    return from_onnx(file, **given, named=train, say=say)


def _exporter(name: str) -> str | None:
    """Return what is no default.

    Raises:
        InputError: an unknown exporter.
    """
    if name not in get_args(Exporter):
        raise InputError(f"--exporter {name} is unknown: use {' or '.join(get_args(Exporter))}")
    return None if name == "torch" else name


def _check_options(given: Mapping[str, Any], kind: str, *foreign: str) -> None:
    for name in foreign:
        if name in given:
            raise InputError(f"{kind} has no option {name}: leave it out")


def _listed(name: str, values: Sequence[str]) -> tuple[str, ...]:
    if isinstance(values, str):
        raise InputError(
            f"{name} is the text {values!r}: give a list like {[v.strip() for v in values.split(',')]}"
        )
    return tuple(values)
