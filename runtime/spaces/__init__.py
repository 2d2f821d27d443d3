"""Trainable spaces: how directions act on the tensors of a bundle, one file each; ``parameters`` holds them all."""

from .activation_branch import ActivationBranch, basis_name
from .base import Arrays, Site, Space
from .branch import LowRankBranch
from .changes import Change, Noise, carry_out
from .in_place import InPlace
from .low_rank import LowRankInPlace
from .out_of_place import OutOfPlace
from .projected import ProjectedInPlace, ProjectedOutOfPlace

__all__ = [
    "ActivationBranch",
    "Arrays",
    "Change",
    "InPlace",
    "LowRankBranch",
    "LowRankInPlace",
    "Noise",
    "OutOfPlace",
    "ProjectedInPlace",
    "ProjectedOutOfPlace",
    "Site",
    "Space",
    "basis_name",
    "carry_out",
]
