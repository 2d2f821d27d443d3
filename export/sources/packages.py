"""The optional packages of the workstation side, imported in one place."""

from __future__ import annotations

import importlib

from zoedge.errors import MissingPackageError


def need(*packages: str, purpose: str, extra: str = "export") -> None:
    """Import each package.

    Raises:
        MissingPackageError: one isn't installed; says what needs it and the pip line.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            if error.name != package:
                raise  # the package is there and broken
            raise MissingPackageError(package, extra, purpose) from error
