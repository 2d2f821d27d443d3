"""The device side: numpy and onnxruntime; numba where it is there."""
