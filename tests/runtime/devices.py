"""Devices that only tests have."""

from zoedge.runtime.device import Cpu
from zoedge.runtime.noise import reference


class Reference(Cpu):
    """The processor with the noise specification's reference, uncompiled."""

    def add_terms(self, additions):
        reference.add_terms(additions)
