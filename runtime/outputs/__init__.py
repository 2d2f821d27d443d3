"""What leaves a run: a plain ONNX folder, or an adapter for other runtimes."""

from .adapter import write_adapter
from .merge import merge

__all__ = ["merge", "write_adapter"]
