"""What leaves a run: a plain ONNX folder, or an adapter for other runtimes."""

from .adapter import write_adapter_files
from .merge import write_merged

__all__ = ["write_adapter_files", "write_merged"]
