"""The workstation side: models go in, bundles come out."""

from .to_bundle import to_bundle

__all__ = ["to_bundle"]
