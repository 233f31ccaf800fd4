"""Finds the files of a checkpoint: a file, a folder, an address, or a repository on the Hugging Face Hub."""

import dataclasses
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from etils import epath

from flax_augtl.config.nearest import nearest
from flax_augtl.pretrained import hub
from flax_augtl.pretrained.errors import CheckpointError
from flax_augtl.pretrained.fetch import fetch, is_address, local_or_named, without_secrets
from flax_augtl.pretrained.formats.sharded import INDEX, index_beside, part_names
from flax_augtl.pretrained.metadata import Description, from_card, from_config, from_notes
from flax_augtl.runtime.paths import fetched, is_remote

_HUB_ID = re.compile(r"(?:hf-hub:|hf_hub:)?([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?")
_USUAL = ("model.safetensors", "pytorch_model.bin")
_USUAL_PARTS = tuple(f"{name}{INDEX}" for name in _USUAL)
EMBEDDED = {"embedded:glyphs": Path(__file__).with_name("glyphs_resnet20.safetensors")}
"""Checkpoints that come with the package."""
_BESIDE = ("config.json", "preprocessor_config.json", "README.md")
# Keeps the copies of remote checkpoints until the process ends, since their tensors are read when they are needed.
_HOLDERS: list[Any] = []
_SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".bin", ".th", ".h5", ".keras", ".ckpt", ".tar", ".hdf5", INDEX)
# Endings of checkpoints, of unsupported files and of mistyped names; no repository on the hub has them.
_FILES = (
    *_SUFFIXES,
    ".pkl",
    ".pickle",
    ".npy",
    ".json",
    ".msgpack",
    ".onnx",
    ".pb",
    ".zip",
    ".gz",
    ".model",
    ".weights",
    ".safetensor",
    ".caffemodel",
    ".params",
    ".t7",
)


@dataclasses.dataclass(frozen=True)
class Located:
    """A checkpoint's file, and the description in the files beside it.

    Attributes:
      file: the checkpoint itself, on this machine.
      description: from config.json and the like.
      terms: where it came from.
    """

    file: Path
    description: Description
    terms: dict[str, str]


def locate(weights: str | os.PathLike) -> Located:
    """Find a checkpoint; download it if it is on the hub or at an address.

    Args:
      weights: a file, a folder with one checkpoint in it, an address, "owner/repository",
        "owner/repository@revision", or a name in `EMBEDDED`.

    Raises:
      CheckpointError: there is no such file, folder or repository, or it does not hold exactly one checkpoint.
    """
    if str(weights).strip().lower() in ("", "none", "null") and not Path(str(weights) or "none").exists():
        raise CheckpointError(
            f"config.weights={str(weights)!r} names no checkpoint. Random weights are --config.weights=None on the "
            "command line, and config.weights = None in a configuration file."
        )
    weights = local_or_named(weights)
    if is_address(weights):
        file = fetch(str(weights))
        return Located(file, _beside(file, usual=False), {"file": file.name, "origin": without_secrets(str(weights))})
    if is_remote(weights):
        name = epath.Path(weights)
        if not name.exists():
            raise CheckpointError(f"There is no checkpoint at {weights}.")
        weights, holder = fetched(name, (f"{name.stem}.json", *(_BESIDE if name.name in _USUAL else ())))
        _HOLDERS.append(holder)
    path = EMBEDDED.get(str(weights)) or Path(weights).expanduser()
    if path.is_dir():
        if (path / "checkpoints").is_dir():
            raise CheckpointError(
                f"{path} holds checkpoints, but it is no finished run of this program: it has no source.json."
            )
        file = _only_checkpoint(path)
        return Located(file, _beside(file, usual=True), {"file": file.name})
    if path.exists():
        path = index_beside(path)
        return Located(path, _beside(path, usual=path.name in (*_USUAL, *_USUAL_PARTS)), {"file": path.name})
    match = _HUB_ID.fullmatch(str(weights))
    if match is None or _is_path(str(weights)):
        raise CheckpointError(_not_there(path, match is not None and not str(weights).startswith((".", "~"))))
    return _from_hub(match[1], match[2])


def _is_path(weights: str) -> bool:
    """Tell whether a possible "owner/repository" is a path: it has a file's ending, or its folder exists."""
    if weights.startswith(("hf-hub:", "hf_hub:")):
        return False
    folder = weights.partition("/")[0]
    return weights.lower().endswith(_FILES) or folder in (".", "..", "~") or Path(folder).is_dir()


def _not_there(path: Path, could_be_id: bool) -> str:
    """Return the message for a path that does not exist, with the nearest names."""
    message, folder = f"There is no checkpoint at {path}.", path.parent
    try:
        names = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    except OSError:
        names = []
    if near := [name for name in names if name.startswith(path.name)] or nearest(path.name, names, most=3):
        message += f" Did you mean {' or '.join(str(folder / name) for name in near[:3])}?"
    elif not folder.is_dir() and could_be_id is False:
        message += f" There is no folder {folder} either."
    if could_be_id and not path.name.lower().endswith(_FILES):
        message += f" For the repository of that name on the hub, write hf-hub:{path}."
    return message


def _only_checkpoint(folder: Path) -> Path:
    for name in (*_USUAL, *_USUAL_PARTS):
        if (folder / name).exists():
            return folder / name
    files = sorted({index_beside(f) for f in folder.iterdir() if f.name.endswith(_SUFFIXES)})
    if len(files) == 1:
        return files[0]
    found = f"{len(files)}: {', '.join(f.name for f in files[:5])}" if files else "none"
    raise CheckpointError(f"{folder} should hold one checkpoint, but there is {found}. Give the file itself.")


def _beside(file: Path, usual: bool) -> Description:
    """Read the description beside a checkpoint: FILE.json, and config.json if the folder has the hub's file names."""
    said = Description()
    own = file.with_suffix(".json")
    if own.exists() and own.name != "config.json":
        found = _json(own)
        if isinstance(found, dict) and "network" in found and "preprocessing" in found:
            said = from_notes(found, str(own))
    preprocessor, config = file.parent / "preprocessor_config.json", file.parent / "config.json"
    if usual and (config.exists() or preprocessor.exists()):
        config = _json(config) if config.exists() else {}
        said = said.over(from_config(config, _json(preprocessor) if preprocessor.exists() else None, str(file)))
        if (file.parent / "README.md").exists():
            said = said.over(from_card(hub.front_matter(file.parent / "README.md")))
    return said


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}).") from error


def _from_hub(repository: str, revision: str | None) -> Located:
    config, commit = hub.fetch(repository, "config.json", revision)
    # Fetch every file at the commit of the first, so that a push in between cannot mix two versions.
    pinned = commit or revision
    found = _json(config) if config else {}
    preprocessor = None
    if "architecture" not in found:
        preprocessor, _ = hub.fetch(repository, "preprocessor_config.json", pinned)
    for name in (*_USUAL, *_USUAL_PARTS):
        file, commit = hub.fetch(repository, name, pinned)
        if file:
            break
    else:
        raise CheckpointError(f"{repository} on the hub has neither {' nor '.join(_USUAL)}.")
    for part in part_names(file) if name in _USUAL_PARTS else ():
        if hub.fetch(repository, part, commit or pinned)[0] is None:
            raise CheckpointError(f"{repository} on the hub has no {part}, which its {name} names.")
    description = from_config(found, _json(preprocessor) if preprocessor else None, repository)
    card = hub.fetch_optional(repository, "README.md", pinned or commit)
    if card:
        description = description.over(from_card(hub.front_matter(card)))
    terms = {"origin": f"https://huggingface.co/{repository}", "revision": commit or "", "attribution": repository}
    return Located(file, description, {key: value for key, value in terms.items() if value})


def digest(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def check_digest(found: str, expected: str | None, where: str):
    """Check that a file has the expected SHA-256.

    Raises:
      CheckpointError: it has another, or the expected one is invalid.
    """
    if expected is None:
        return
    expected = expected.strip().lower().removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{64}", expected):
        raise CheckpointError(f"sha256 must be 64 hexadecimal digits, got {expected!r}.")
    if found != expected:
        raise CheckpointError(f"{where} has SHA-256 {found}, not {expected} as asked: it is another file.")
