"""Data files as records (``read.READERS`` is the place to add a format), examples, and batches of them."""

from .hold_out import held_out_rows, hold_out
from .in_memory import Data, InMemory, as_data
from .keys import KeyNames, KeyOptions
from .read import READERS, read
from .record import Record, Subset
from .splits import Split

__all__ = [
    "READERS",
    "Data",
    "InMemory",
    "KeyNames",
    "KeyOptions",
    "Record",
    "Split",
    "Subset",
    "as_data",
    "held_out_rows",
    "hold_out",
    "read",
]
