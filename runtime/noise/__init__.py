"""The directions of a step: a specification, its reference in NumPy, and the same bits from compiled code.

And what else is drawn by a seed: orders of rows and of layers (``permutation``).
"""
