"""Silence for the chatter of torch and transformers, around the calls that make it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Mute warnings and log records up to WARNING, and restore both afterwards.

    What the exporters warn of (torchvision absent, axis names shared, loading reports) is either checked by
    us or of no use to a user.
    """
    previous = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(max(previous, logging.WARNING))
        try:
            yield
        finally:
            logging.disable(previous)
