"""A run as a fold over its journal: the state after records 1..n, and the one way to get there.

Training calls ``measure`` with forward passes, appends the record and calls ``apply``; replay calls the same
two with the answers that the record holds. Nothing else ever changes the parameters of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from zoedge.methods import Method, Point, State, Told, Update

from ..records import Assign, Eval, Record, Step
from ..spaces import Arrays
from ..spaces.parameters import Parameters
from .method import more, tell

FULL = 255  # the slot of values fitted on all rows: what evaluation and the tuned model use


class Fold:
    """Method state, parameters and assigned values after some records.

    Attributes:
        step: how many steps were taken.
        state: the method's scalars.
    """

    def __init__(self, method: Method, parameters: Parameters, *, eps: float) -> None:
        self.method = method
        self.parameters = parameters
        self.eps = eps
        self.step = 0
        self.state: State = method.init()
        self._slots: dict[int, dict[str, NDArray[np.float32]]] = {}
        self._active: int | None = None

    @property
    def folds(self) -> int:
        """How many cross-fitted versions of the assigned values there are; 0 without any."""
        return sum(slot != FULL for slot in self._slots)

    def slot(self, step: int) -> int:
        """Return the slot whose values a step's losses are measured with."""
        return step % self.folds if self.folds else FULL

    def measure(self, lr: float, answers_at: Callable[[Iterator[int]], Iterable[float]]) -> Step:
        """Visit the next step's points and return its record.

        Args:
            lr: learning rate; rounded to float32, as the record keeps it.
            answers_at: gets the points' indices one after the other; once it has been given one, the
                parameters are (lazily) there. Returns the answers in that order. Where points depend on answers
                it is called again, with the indices that follow, once it has returned.

        Raises:
            ValueError: it returned another number of answers than there are points, or the method asks for more
                points than it says.
        """
        self._activate(self.slot(self.step))
        rounded, most = float(np.float32(lr)), self.method.most_points
        points = self.method.ask(self.state, self.eps)
        answers: tuple[float, ...] = ()
        while points:
            first = len(answers)
            if first + len(points) > most:
                raise ValueError(f"{first + len(points)} points are asked for, above the {most} at most")
            answers += tuple(float(answer) for answer in answers_at(self._visits(points, first)))
            if len(answers) != first + len(points):
                raise ValueError(f"{len(answers) - first} answers were returned for {len(points)} points")
            points = more(self.method, self.state, answers, rounded, self.eps)
        return Step(self.step, rounded, answers)

    def _visits(self, points: Sequence[Point], first: int) -> Iterator[int]:
        for index, point in enumerate(points, first):
            self.parameters.visit(self.step, point)
            yield index

    def apply(self, record: Record) -> Told | None:
        """Take a record in; return what the method made of it, None where no step was taken.

        A step whose answers or update aren't finite moves the parameters back (in place, up to float32 rounding)
        and changes nothing else, but what a method counts steps by.
        """
        match record:
            case Step():
                told = tell(self.method, self.state, record, self.eps)
                self.state = told.state if told else self.method.skipped(self.state)
                self.parameters.apply(record.step, told.update if told else Update())
                if told is not None:
                    self.parameters.told(record.step, told.g)
                self.step = record.step + 1
                return told
            case Assign(_, slots, _):
                self._assign(slots)
            case Eval():
                pass
        return None

    def replay(self, records: Iterable[Record]) -> None:
        """Take in records that were measured before, here or elsewhere."""
        for record in records:
            if isinstance(record, Step):
                if record.step != self.step:
                    raise ValueError(f"the journal's step {record.step} follows step {self.step - 1}")
                self.measure(record.lr, partial(_recorded, record.answers))
            self.apply(record)

    def rest(self) -> None:
        """Settle the parameters at theta, with the values fitted on all rows."""
        self._activate(FULL)
        self.parameters.settle()

    def snapshot(self) -> dict[str, NDArray[np.generic]]:
        """Return arrays from which ``restore`` continues; call it between steps."""
        self._activate(FULL)
        arrays: dict[str, NDArray[np.generic]] = {
            f"parameter/{k}": v for k, v in self.parameters.state().items()
        }
        arrays |= {f"method/{name}": np.array(value) for name, value in self.state.items()}
        for slot, values in self._slots.items():
            arrays |= {f"slot/{slot}/{name}": value for name, value in values.items()}
        arrays["step"] = np.array(self.step)
        return arrays

    def restore(self, arrays: Arrays) -> None:
        """Continue from a ``snapshot``."""
        self.step = int(arrays["step"])
        self.state = {name: float(value) for name, value in _under(arrays, "method/").items()}
        self._slots = _slots(arrays)
        self.parameters.load(_under(arrays, "parameter/"))
        self._active = None

    def _assign(self, slots: Mapping[int, Mapping[str, NDArray[np.float32]]]) -> None:
        """Keep fixed tensors by slot; tensors that directions move take their values here and now."""
        fixed = self.parameters.fixed
        self.parameters.restart({n: v for n, v in slots[FULL].items() if n not in fixed})
        for slot, values in slots.items():
            self._slots[slot] = {n: v for n, v in values.items() if n in fixed}
        self._active = None

    def _activate(self, slot: int) -> None:
        if self._slots and slot != self._active:
            self.parameters.assign(self._slots[slot])
            self._active = slot


def _recorded(answers: Sequence[float], points: Iterator[int]) -> list[float]:
    return [answers[point] for point in points]


def _slots(arrays: Arrays) -> dict[int, dict[str, NDArray[np.float32]]]:
    slots: dict[int, dict[str, NDArray[np.float32]]] = {}
    for key, value in _under(arrays, "slot/").items():
        slot, _, name = key.partition("/")
        slots.setdefault(int(slot), {})[name] = np.asarray(value, np.float32)
    return slots


def _under(arrays: Arrays, prefix: str) -> Mapping[str, NDArray[np.generic]]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
