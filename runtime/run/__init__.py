"""A run as a fold over its journal: the loop, what is recorded, what is saved; how branches get directions."""
