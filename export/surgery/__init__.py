"""Transformations of a graph without its weights, each in a file of its own."""
