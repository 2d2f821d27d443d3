"""What a program asks of a run: options as an object or a dict, and an objective as a name or a function."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import structs

from zoedge import options as tune_options
from zoedge.errors import InputError
from zoedge.options import TuneOptions

Options = TuneOptions | Mapping[str, Any]
Function = Callable[..., Any]


@dataclass(frozen=True)
class Asked:
    """Options, the names of those that were given, and the objective where that is a function of the program."""

    options: TuneOptions
    given: frozenset[str]
    function: Function | None = None

    @property
    def functions(self) -> dict[str, Function]:
        """The program's own function under the name that the options call it by."""
        return {self.options.objective: self.function} if self.function else {}


def asked(
    options: Options | None, given: Collection[str] | None = None, objective: str | Function | None = None
) -> Asked:
    """Return what was asked for.

    Args:
        options: a ``TuneOptions``, or a dict of its fields; ``objective`` may be a function there too.
        given: the options that the user named; None takes those of a dict, or those unlike their defaults.
        objective: a name or a function, in place of the options'.

    Raises:
        InputError: an unknown option, a value of the wrong type, or something else than options.
    """
    if options is None or isinstance(options, TuneOptions):
        chosen, named = options or TuneOptions(), tune_options.unlike_default(options or TuneOptions())
    elif isinstance(options, Mapping):
        values = {str(name).replace("-", "_"): _plain(value) for name, value in options.items()}
        own = values.get("objective")
        objective = values.pop("objective") if objective is None and callable(own) else objective
        chosen, named = tune_options.make(values), frozenset(n for n, v in values.items() if v is not None)
    else:
        raise InputError(
            f"options are the {type(options).__name__} {options!r:.60}: "
            f"give a dict like {{'steps': 100}} or TuneOptions"
        )
    if objective is not None:
        if not isinstance(objective, str) and not callable(objective):
            raise InputError(f"objective is {objective!r:.60}: give a name or a function")
        name = objective if isinstance(objective, str) else _name(objective)
        told = getattr(objective, "direction", None) if callable(objective) else None
        direction = chosen.objective_direction or (told if told in ("min", "max") else None)
        chosen = structs.replace(chosen, objective=name, objective_direction=direction)
        named |= {"objective"}
    function = objective if callable(objective) else None
    return Asked(chosen, named if given is None else frozenset(given), function)


def _plain(value: Any) -> Any:
    """Return Python's own number for NumPy's."""
    return value.item() if hasattr(value, "dtype") and getattr(value, "ndim", 1) == 0 else value


def _name(function: Function) -> str:
    """Return what a run calls a function: where it is defined, so that an importable one is found again."""
    kind = function if hasattr(function, "__qualname__") else type(function)
    return f"{kind.__module__}:{kind.__qualname__}"
