"""A run tried out before it starts: what it would hold, and whether that fits."""
