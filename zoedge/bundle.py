"""A bundle on disk: opened, checked against its manifest, and read without copying."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from .adapters import LORA
from .errors import BundleError
from .files import as_path, sha256
from .manifest import FORMAT_VERSION, MANIFEST_FILE, TELLS_APART, Manifest


@dataclass(frozen=True)
class Bundle:
    """A folder that ``zoedge export`` wrote.

    Attributes:
        folder: where it lies.
        manifest: its ``bundle.json``, decoded.
        digest: hex SHA-256 of ``bundle.json``, which names every other file by its own SHA-256; a run's
            journal carries it, so that a replay on another bundle is refused.
    """

    folder: Path
    manifest: Manifest
    digest: str

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = True) -> Bundle:
        """Open a bundle.

        Args:
            folder: the bundle's folder.
            verify: also compare each file's SHA-256 with the manifest (reads every byte once).

        Raises:
            BundleError: no bundle there, a newer format, a damaged manifest, or a file that is missing,
                outside the folder or not the one that was exported.
        """
        folder = as_path(folder, "a bundle's folder")
        path = folder / MANIFEST_FILE
        if not path.is_file():
            if not folder.exists():
                raise BundleError(f"{folder} doesn't exist: give the folder that zoedge export wrote")
            raise BundleError(
                f"{folder} is not a bundle: it has no {MANIFEST_FILE} (make one with zoedge export)"
            )
        raw = path.read_bytes()
        manifest = _decode(raw, path)
        bundle = cls(folder, manifest, _digest(raw))
        for name, expected in manifest.files.items():
            bundle._check_file(name, expected if verify else None)
        return bundle

    def path(self, name: str) -> Path:
        """Return the path of a file of the bundle, given its name in the manifest."""
        return self.folder / name

    def _check_file(self, name: str, expected: str | None) -> None:
        path = self.folder / name
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise BundleError(
                f"{self.folder / MANIFEST_FILE} names {name!r}, which lies outside the bundle: export it again"
            )
        if not path.is_file():
            raise BundleError(f"{path} is missing: copy the whole bundle folder or export it again")
        if expected is not None and sha256(path) != expected:
            raise BundleError(
                f"{path} is not the file that was exported (its SHA-256 differs): copy or export it again"
            )


def _decode(raw: bytes, path: Path) -> Manifest:
    try:
        version = msgspec.json.decode(raw, type=_Version).format
        if version > FORMAT_VERSION:
            raise BundleError(
                f"{path} has format {version}, and this zoedge reads up to {FORMAT_VERSION}: upgrade zoedge"
            )
        if version < TELLS_APART:
            raw = _brought_up(raw)
        return msgspec.json.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise BundleError(f"{path} can't be read: {error}; export the bundle again") from error


def _brought_up(raw: bytes) -> bytes:
    """Return the manifest of an early format as later ones tell it: without what nobody read, all branches LoRA."""
    known: dict[str, Any] = msgspec.json.decode(raw, type=dict[str, Any])
    known.pop("opset", None)
    for row in known["parameters"]:
        row.pop("layer", None)
    if "lora" not in known:
        return msgspec.json.encode(known)
    shapes = {row["name"]: row["shape"] for row in known["parameters"]}
    known["branches"] = [
        {
            **{name: value for name, value in old.items() if name not in ("a", "b", "rank", "alpha")},
            "kind": LORA,
            "shape": [shapes[old["b"]][0], shapes[old["a"]][1]],
            "tensors": {"a": old["a"], "b": old["b"]},
            "settings": {"rank": old["rank"], "alpha": old["alpha"]},
        }
        for old in known.pop("lora")
    ]
    return msgspec.json.encode(known)


class _Version(msgspec.Struct):
    format: int


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the bytes of ``bundle.json`` for a manifest: indented, so that people can read it."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1)
