"""What all kinds of adapters have."""

from __future__ import annotations

import msgspec


class AdapterOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of a kind's own settings: fields of ``Annotated[type, Setting(...)]``, called as their flags are."""
