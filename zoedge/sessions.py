"""What sessions on the workstation and on the device have in common: how they are opened so that sums are exact.

Without VNNI, x86 processors add pairs of products of 8-bit numbers (0 to 255 times -128 to 127) in 16 bits and clip
what doesn't fit. Models quantised to the whole range then compute something else than they do elsewhere.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import InputError

# these graph optimizers of onnxruntime read initializers without asking whether they are constant
STALE_OPTIMIZERS = (
    "AttentionFusion",
    "GroupQueryAttentionFusion",
    "WeightBiasQuantization",
    "EmbedLayerNormFusion",
)
Entry = tuple[str, str]  # of a session's configuration
Open = Callable[[tuple[Entry, ...]], Any]  # entries -> session; a failure raises, and nothing is logged

# onnxruntime then makes constant int8 weights uint8, whose kernels don't clip, unless all lie within -64 and 64, where
# no pair can be clipped
_UNSIGNED: Entry = ("session.x64quantprecision", "1")
# what DequantizeLinear makes is multiplied as floats
_UNFUSED: Entry = ("session.disable_quant_qdq", "1")
# MatMulInteger of x [1, 32], uint8, and a column of 127s
_SUM = (
    "CAYSADp0ChgKAXgKAXcSAXkiDU1hdE11bEludGVnZXISAWcqKwggCAEQA0IBd0ogf39/f39/f39/f39/f39/f39/f39/f39/f39/f39/f39aEwoB"
    "eBIOCgwIAhIICgIIAQoCCCBiEwoBeRIOCgwIBhIICgIIAQoCCAFCBAoAEAs="
)


@functools.cache
def clips_sums() -> bool:
    """Return whether this processor clips sums of 8-bit products, as a product of the largest shows."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        base64.b64decode(_SUM), options, providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"x": np.full((1, 32), 255, np.uint8)})
    return bool(found[0, 0] != 32 * 255 * 127)


def open_exact(open_session: Open, what: str) -> Any:
    """Return a session that doesn't clip sums.

    Args:
        open_session: opens it.
        what: how messages call the model.

    Raises:
        InputError: on this processor it can't be had.
        Exception: what ``open_session`` raises where the model can't be run at all.
    """
    if not clips_sums():
        return open_session(())
    for entries in ((_UNSIGNED,), (_UNSIGNED, _UNFUSED)):
        try:
            return open_session(entries)
        except Exception:  # onnxruntime's classes share no base
            continue
    open_session(())
    raise InputError(
        f"{what} multiplies signed 8-bit numbers, whose sums this processor clips as it has no VNNI: quantise the "
        "model with reduce_range=True or unsigned activations (activation_type=QUInt8), or use a processor with VNNI"
    )
