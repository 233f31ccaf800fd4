"""An exported safetensors file as a run again: it predicts, with every head, without the run directory."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from flax_augtl.config import added_fields
from flax_augtl.config.convert import from_json, to_config_dict
from flax_augtl.config.heads import HeadSettings
from flax_augtl.export.settings import ExportError
from flax_augtl.export.sheet import NOT_CALIBRATED
from flax_augtl.models.augmented import CLASSIFICATION, HEAD, create_network
from flax_augtl.pretrained import CheckpointError, Preprocessing
from flax_augtl.pretrained.convert import check, to_variables
from flax_augtl.pretrained.formats.lazy_tensor import Tensor
from flax_augtl.pretrained.formats.safetensors_file import read_safetensors
from flax_augtl.run import Run
from flax_augtl.runtime.paths import absolute
from flax_augtl.training.experiment import hashable
from flax_augtl.workdir import files

_WEIGHTS = ("export.safetensors", "model.safetensors")
_SHEET = "export.json"


def load_export(path: os.PathLike | str, *, revision: str | None = None) -> Run:
    """Load what `--mode=export --format=safetensors` or `--push_to_hub` wrote.

    The run that comes back predicts, evaluates another folder (`evaluate("all", data_root=FOLDER)`) and can be exported
    again. It has no checkpoints, no splits and no history: it cannot be evaluated on its own splits or trained on. To
    train on, give the file as `config.weights` of a new run.

    Args:
      path: an exported file, a folder that holds one, or "USER/NAME" on the Hugging Face Hub.
      revision: of a repository on the Hub.

    Raises:
      ValueError: there is no such export, or its files do not go together.
    """
    weights, sheet_file = _located(path, revision)
    sheet = files.read_json(sheet_file)
    try:
        settings = HeadSettings(**hashable(sheet["head"])) if sheet["head"] else HeadSettings(False, norm="none")
        names, step = tuple(map(str, sheet["class_names"])), int(sheet["step"])
        kept = sheet["kept_class_names"]
        preprocessing = Preprocessing.from_json(sheet["preprocessing"])
        network = create_network(
            sheet["network"],
            settings,
            num_classes=len(names),
            source_classes=len(kept or ()) or None,
            variant=hashable(sheet["settings"]),
        )
        config = to_config_dict(from_json(added_fields.filled(sheet["config"])))
        calibrated = sheet.get("calibration", NOT_CALIBRATED)
        temperature = None if calibrated == NOT_CALIBRATED else float(calibrated)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ExportError(
            f"{sheet_file} does not describe an export of this version: {error!r}. Export the run again."
        ) from (error)
    tensors = dict(read_safetensors(Path(weights)).tensors)
    variables = _variables(network, tensors, plain=not sheet["head"], where=str(weights))
    return Run(
        epath.Path(weights).parent,
        config,
        names,
        preprocessing,
        network,
        variables,
        step,
        {"test": sheet["test"]} if sheet.get("test") else None,
        temperature,
    )


def _located(path: os.PathLike | str, revision: str | None) -> tuple[Any, Any]:
    """Return the paths of the weights and of the JSON that describes them."""
    there = absolute(path)
    if there.is_dir():
        for name in _WEIGHTS:
            if (there / name).exists() and (there / _SHEET).exists():
                return there / name, there / _SHEET
        raise ExportError(f"{there} holds no {' or '.join(_WEIGHTS)} with an {_SHEET} beside it.")
    if there.exists():
        sheet = there.with_suffix(".json") if there.with_suffix(".json").exists() else there.with_name(_SHEET)
        return there, sheet
    from flax_augtl.pretrained import hub

    name = str(path).removeprefix("hf-hub:")
    sheet, commit = hub.fetch(name, _SHEET, revision)
    weights = sheet and hub.fetch(name, _WEIGHTS[1], commit or revision)[0]
    if not weights:
        raise ExportError(f"{name} on the hub holds no export of flax_augtl: it has no {_SHEET} with {_WEIGHTS[1]}.")
    return weights, sheet


def _variables(network: Any, tensors: dict[str, Tensor], *, plain: bool, where: str) -> dict[str, Any]:
    """Return the variables of a network from the tensors of an export."""
    source = network.source
    # In a plain export the target classifier stands where torchvision has its classification layer.
    module = source.clone(num_classes=network.head.num_classes) if plain else source
    slots = module.slots()
    head = {name: tensor for name, tensor in tensors.items() if name.startswith(f"{HEAD}.")}
    problems = check({name: tensor for name, tensor in tensors.items() if name not in head}, slots)
    if problems:
        raise CheckpointError("\n".join([f"{where} does not hold the network that {_SHEET} describes.", *problems]))
    found = to_variables(tensors, slots)
    params, statistics = found["params"], found.get("batch_stats", {})
    own: dict[str, Any] = {"params": {}, "batch_stats": {}}
    if plain:
        top = module.groups[-1]
        assert top in CLASSIFICATION
        own["params"]["classifier"] = params.pop(top)
    for name, tensor in head.items():
        _, layer, leaf = name.split(".")
        collection = "batch_stats" if leaf in ("mean", "var") else "params"
        own[collection].setdefault(layer, {})[leaf] = np.asarray(tensor.read(), np.float32)
    return {
        collection: {part: tree for part, tree in (("source", of), (HEAD, own[collection])) if tree}
        for collection, of in (("params", params), ("batch_stats", statistics))
    }
