"""zoedge: fine-tune ONNX models on the device that runs them, with forward passes alone."""
