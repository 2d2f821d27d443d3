"""A graph on its way, whose tensors lie where files have them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from onnx import helper, numpy_helper

WIDTH = 4
MICROSOFT = "com.microsoft"


@dataclass
class Drawn:
    """A graph on its way; ``draw(low, high)`` is hypothesis' choice of an integer."""

    draw: object
    nodes: list = field(default_factory=list)
    tensors: dict = field(default_factory=dict)
    count: int = 0
    rows: str = "x"  # the input, with the batch first

    def name(self, hint):
        self.count += 1
        return f"{hint}{self.count}"

    def held(self, shape, hint="t"):
        """Hold a tensor as an initializer, a Constant, or behind an Identity or Transpose; return the value."""
        name = self.name(hint)
        array = np.random.default_rng(self.count).uniform(0.2, 0.9, shape).astype(np.float32)
        array *= np.where(np.random.default_rng(self.count + 1).random(shape) < 0.3, -1, 1).astype(np.float32)
        way = self.draw(0, 3)
        if way == 0:
            self.nodes.append(
                helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name))
            )
            return name
        if way == 1 and len(shape) == 2:
            self.tensors[name] = np.ascontiguousarray(array.T)
            self.nodes.append(helper.make_node("Transpose", [name], [f"{name}/turned"], perm=[1, 0]))
            return f"{name}/turned"
        self.tensors[name] = array
        if way == 2:
            self.nodes.append(helper.make_node("Identity", [name], [f"{name}/same"]))
            return f"{name}/same"
        return name

    def op(self, op, *inputs, **settings):
        """Add a node of one output."""
        (made,) = self.ops(op, 1, *inputs, **settings)
        return made

    def ops(self, op, outputs, *inputs, domain="", **settings):
        """Add a node of several outputs."""
        made = [self.name(op) for _ in range(outputs)]
        self.nodes.append(
            helper.make_node(op, inputs, made, name=f"{made[0]}/node", domain=domain, **settings)
        )
        return made

    def fixed(self, array, hint="fixed"):
        """Hold an array as an initializer."""
        name = self.name(hint)
        self.tensors[name] = np.asarray(array)
        return name

    def rng(self):
        """Return a generator of its own for the tensor that comes next."""
        return np.random.default_rng(self.count)
