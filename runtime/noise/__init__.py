"""The directions of a step: a specification, its reference in NumPy, and the same bits from compiled code."""
