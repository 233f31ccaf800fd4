"""Uploads an export to the Hugging Face Hub, so that `config.weights=USER/NAME` finds it there."""

import json
import re
from collections.abc import Sequence
from typing import Any

from etils import epath

from flax_augtl.export.settings import ExportError
from flax_augtl.export.sheet import described, is_plain
from flax_augtl.run import Run
from flax_augtl.runtime.text import first_line

_TARGET = re.compile(r"[\w.-]+/[\w.-]+")
# What the Hub's libraries call a repository's own weights.
_NAMES = {"export.safetensors": "model.safetensors"}


def check_target(target: str) -> str:
    """Return "USER/NAME" after a look at its form, and at whether there is a login.

    Raises:
      ExportError: it is no name of a repository, or there is no token.
    """
    from huggingface_hub import get_token  # Slow to import.

    if not _TARGET.fullmatch(target):
        raise ExportError(f"--push_to_hub={target} must be USER/NAME, such as --push_to_hub=me/flowers-resnet18.")
    if get_token() is None:
        raise ExportError(f"--push_to_hub={target} needs a login: run `hf auth login`, or set HF_TOKEN.")
    return target


def upload(target: str, run: Run, paths: Sequence[epath.Path]) -> str:
    """Upload files in one commit, to a repository that is private if it is new; return its address.

    Raises:
      ExportError: the Hub refuses, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(library_name="flax_augtl")
    contents: dict[str, Any] = {
        "config.json": (json.dumps(_hub_config(run), indent=2, ensure_ascii=False) + "\n").encode()
    }
    contents |= {_NAMES.get(path.name, path.name): _content(path) for path in paths}
    try:
        # A request to create what is there may be refused to those who may write to it all the same.
        if not api.repo_exists(target):
            api.create_repo(target, private=True, exist_ok=True)
        api.create_commit(
            target,
            [CommitOperationAdd(name, content) for name, content in contents.items()],
            commit_message="Export of flax_augtl",
        )
    except Exception as error:  # What an upload can raise depends on the HTTP library that this hub version uses.
        raise ExportError(
            f"--push_to_hub={target} failed: {first_line(error)} The files are in {run.workdir}."
        ) from error
    return f"{api.endpoint}/{target}"


def _content(path: epath.Path) -> Any:
    """Return a file as the library takes it: by its path, or, from a bucket, as bytes."""
    return path.read_bytes() if "://" in str(path) else str(path)


def _hub_config(run: Run) -> dict[str, Any]:
    """Return a config.json as timm has it, as far as that can say what this network is."""
    found, preprocessing = described(run), run.preprocessing
    names = list(run.class_names) if is_plain(run) else list(found["class_names"])
    config = {"architecture": found["network"], "num_classes": len(names), "label_names": names}
    if preprocessing.channel_order == "RGB" and preprocessing.value_range == 1 and preprocessing.resize == "short_side":
        size = preprocessing.image_size
        config["pretrained_cfg"] = {
            "input_size": [3, size, size],
            "crop_pct": preprocessing.crop_fraction,
            "crop_mode": "center",
            "interpolation": preprocessing.interpolation,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
        }
    return config
