"""How a run uses a form of the loss graph: what the runtime's module of each form says."""

from __future__ import annotations

from importlib import import_module
from typing import ClassVar, cast

from zoedge.forms import FORMS

from ..prefix_cache import PrefixCache
from ..probing import Forward
from .caching import Tried
from .situation import Situation


class FormUse:
    """The use of one form; the ``USE`` of a form's module is one.

    Attributes:
        timed: whether a timing may choose it, as its bits are those of the whole graph: it is held against that
            and taken only with equal bits. Otherwise it is a whole graph of other rounding, and the first that is
            usable is taken.
        setting: the option that asks for it by yes or no; "" where there is none.
        saves: what a timed one saves with a point a pass, as a sentence without its end.
    """

    timed: ClassVar[bool] = False
    setting: ClassVar[str] = ""
    saves: ClassVar[str] = ""

    def usable(self, situation: Situation) -> bool:
        """Return whether it is in the bundle and suits the run: by a rule, and the same for the same command.

        Raises:
            InputError: the user asked for it, and it isn't there.
        """
        raise NotImplementedError

    def open(self, situation: Situation, cache: PrefixCache | None = None) -> Forward:
        """Open its sessions.

        Args:
            situation: the run's.
            cache: what ``try_cache`` returned.
        """
        raise NotImplementedError

    def stacks(self, situation: Situation) -> bool:
        """Return whether several of the run's points can share a pass; asked of timed ones."""
        return False

    def try_cache(self, situation: Situation) -> Tried:
        """Return what keeps results across steps; asked of timed ones."""
        return Tried()


def form_uses(*, timed: bool) -> dict[str, FormUse]:
    """Return the uses of all forms of one kind by name, in the order in which they are tried.

    Forms that a device chooses have none.
    """
    modules = {name: form.runtime for name, form in FORMS.items() if form.runtime is not None}
    every = {name: cast("FormUse", import_module(module).USE) for name, module in modules.items()}
    return {name: use for name, use in every.items() if use.timed == timed}
