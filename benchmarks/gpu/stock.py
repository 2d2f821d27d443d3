"""The yardstick: plain onnxruntime on the bundle's own model, weights as constants, all logits returned."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from variants.shapes import Ids, load_batch

from gpu.variant import Place, Variant
from zoedge.bundle import Bundle

FORWARDS = 2  # of a step, one after the other as a two-point step has them


class Stock(Variant):
    """Two forward passes with fixed shapes; on a GPU recorded once and replayed as a CUDA graph.

    Args:
        bundle: which of the bundles.
        half: convert the model to float16.
    """

    passes = f"{FORWARDS} forwards"

    def __init__(self, place: Place, bundle: str, *, half: bool = False) -> None:
        super().__init__(place)
        path = place.bundles / bundle / "model.onnx"
        manifest = Bundle.open(place.bundles / bundle, verify=False).manifest
        self._model: Any = str(path)
        self._weights: dict[str, Any] = {}
        if half:
            from gpu.half_model import half_model

            self._model, self._weights = half_model(path)
        self._ids, self._labels = load_batch(place.data)
        self._sizes = _sizes(manifest.model_inputs, self._ids)

    def build(self) -> None:
        if self.place.provider == "cuda":
            from zoedge.runtime.device.cuda_missing import check_wheel

            check_wheel()  # loads CUDA's libraries
        try:
            self._open(ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
        except Exception as error:  # some fused node that can't be recorded
            self.notes.append(f"with the extended optimizations only, as all of them fail: {error!s:.200}")
            self._open(ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED)
        self.parts = {"step": self._step}

    def _open(self, level: Any) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = level
        for name, size in self._sizes.items():
            options.add_free_dimension_override_by_name(name, size)
        if self._weights:
            self._values = [ort.OrtValue.ortvalue_from_numpy(a) for a in self._weights.values()]
            options.add_external_initializers(list(self._weights), self._values)
        self._session = ort.InferenceSession(self._model, options, providers=[self._provider()])
        self._check_provider()
        self._binding = self._session.io_binding()
        self._settings = ort.RunOptions()
        self._bind()
        for _ in range(3):  # the second is recorded, the third replayed
            self._forward()

    def _provider(self) -> Any:
        if self.place.provider != "cuda":
            return "CPUExecutionProvider"
        return (
            "CUDAExecutionProvider",
            {
                "device_id": "0",
                "user_compute_stream": str(self.place.stream.ptr),
                "use_tf32": "0",
                "enable_cuda_graph": "1",
                "arena_extend_strategy": "kSameAsRequested",
                "cudnn_conv_algo_search": "HEURISTIC",
            },
        )

    def _check_provider(self) -> None:
        found = self._session.get_providers()[0]
        if self.place.provider == "cuda" and found != "CUDAExecutionProvider":
            raise RuntimeError(f"onnxruntime runs the model on {found}")

    def _bind(self) -> None:
        """Give inputs and logits their places."""
        known = {"input_ids": self._ids, "attention_mask": np.ones_like(self._ids)}
        (output,) = [o for o in self._session.get_outputs() if o.name == "logits"]
        shape = (*self._ids.shape, output.shape[2])
        dtype = np.float16 if "float16" in output.type else np.float32
        if self.place.provider != "cuda":
            for port in self._session.get_inputs():
                self._binding.bind_cpu_input(port.name, known[port.name])
            self._binding.bind_output("logits")
            return
        import cupy

        self._settings.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._kept = {port.name: cupy.asarray(known[port.name]) for port in self._session.get_inputs()}
        for name, array in self._kept.items():
            self._binding.bind_input(name, "cuda", 0, np.int64, array.shape, array.data.ptr)
        self._logits = cupy.empty(shape, dtype)
        self._binding.bind_output("logits", "cuda", 0, dtype, shape, self._logits.data.ptr)
        cupy.cuda.runtime.deviceSynchronize()

    def _forward(self) -> None:
        self._session.run_with_iobinding(self._binding, self._settings)

    def _step(self) -> None:
        for _ in range(FORWARDS):
            self._forward()

    def loss(self) -> float:
        """Return the mean loss of the labels."""
        self._forward()
        if self.place.provider == "cuda":
            self.place.stream.synchronize()
            logits = self._logits[:, -self._labels.shape[1] :].get()
        else:
            logits = self._binding.copy_outputs_to_cpu()[0][:, -self._labels.shape[1] :]
        values = logits.astype(np.float64)
        picked = np.take_along_axis(values, self._labels[..., None], 2)
        return float(np.log(np.exp(values - picked).sum(2)).mean())


def _sizes(ports: Any, ids: Ids) -> dict[str, int]:
    """Return the sizes of the model's free dimensions."""
    return {
        dim: size
        for port in ports
        for dim, size in zip(port.shape, ids.shape, strict=True)
        if isinstance(dim, str)
    }
