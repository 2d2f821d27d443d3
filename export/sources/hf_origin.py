"""Where a Hugging Face model lies: a folder here, or a repository on the hub."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoedge.errors import InputError

from .quiet import quiet

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@dataclass(frozen=True)
class Origin:
    """A model's address; its files are read one by one.

    Attributes:
        address: what ``from_pretrained`` takes, a folder or a hub id.
        revision: branch, tag or commit on the hub.
        local: whether the address is a folder.
    """

    address: str
    revision: str | None
    local: bool

    @property
    def name(self) -> str:
        """The hub id, or the folder's own name (its path is nobody else's business)."""
        return Path(self.address).resolve().name if self.local else self.address

    def file(self, path: str) -> bytes | None:
        """Return the bytes of a file of the model, or None if it has none of that name."""
        if self.local:
            file = Path(self.address) / path
            return file.read_bytes() if file.is_file() else None
        from transformers.utils import cached_file  # a folder needs no transformers

        found = cached_file(
            self.address,
            path,
            revision=self.revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return None if found is None else Path(found).read_bytes()

    def json(self, path: str) -> dict[str, Any] | None:
        """Return a JSON object of the model, or None if it has no such file.

        Raises:
            InputError: the file is no JSON object.
        """
        raw = self.file(path)
        if raw is None:
            return None
        try:
            value = json.loads(raw)
        except ValueError as error:
            raise InputError(f"{path} of {self.address} is no valid JSON: {error}") from error
        if not isinstance(value, dict):
            raise InputError(
                f"{path} of {self.address} should hold a JSON object, not a {type(value).__name__}"
            )
        return value


def locate(model: str | Path, revision: str | None = None) -> Origin:
    """Find a model by its folder or hub id.

    Raises:
        InputError: a folder without ``config.json``, or text that can be neither a folder nor a hub id.
    """
    address, folder = str(model), Path(model)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(
                f"{address} has no config.json: give a folder that transformers' save_pretrained wrote"
            )
        return Origin(address, None, local=True)
    if isinstance(model, Path) or folder.is_file() or not _HUB_ID.fullmatch(address):
        raise InputError(f"{address} is no folder with a Hugging Face model: check the path")
    return Origin(address, revision, local=False)


def read_config(origin: Origin) -> PretrainedConfig:
    """Return the model's configuration.

    Raises:
        InputError: the hub can't be reached or doesn't know the model, the file is damaged, or this
            transformers doesn't know the kind of model.
    """
    from transformers import AutoConfig

    if origin.local:
        origin.json("config.json")  # a damaged file is named before transformers guesses at it
    try:
        with quiet():
            return AutoConfig.from_pretrained(
                origin.address, revision=origin.revision, trust_remote_code=False
            )
    except OSError as error:
        raise InputError(
            f"{origin.address} is neither a folder here nor reachable on the hub: check the spelling and the "
            "network, or download the model and give its folder"
        ) from error
    except (ValueError, KeyError) as error:
        kind = (origin.json("config.json") or {}).get("model_type")
        raise InputError(
            f"transformers has no model type {kind!r} of its own ({origin.address}): upgrade transformers or "
            "export the model to .onnx and give that file"
        ) from error
