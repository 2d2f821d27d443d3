"""What passes, steps, noise and memory cost on a GPU: the parts of ``benchmarks/on_gpu.py``."""
