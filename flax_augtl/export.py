"""A run's weights as a file that other programs read."""

import dataclasses
import json

import numpy as np
from etils import epath
from safetensors.numpy import save

from flax_augtl import run_directory
from flax_augtl.network import HEAD
from flax_augtl.pretrained import to_state_dict
from flax_augtl.run import Run

FORMATS = ("safetensors",)


def export(run: Run, format: str = "safetensors") -> list[epath.Path]:
    """Write `export.safetensors` and `export.json` into the run directory and return their paths.

    The source network has torchvision's tensor names and layout. A head that is nothing but a target classifier on the
    penultimate features takes the place of torchvision's classification layer, so that the file loads into, say,
    `torchvision.models.resnet18(num_classes=k)`. The tensors of any other head stand beside it, as `head.<layer>.<tensor>`
    in Flax's layout (a kernel is [inputs, outputs]). The JSON holds class names, preprocessing, network and terms.

    Raises:
      ValueError: the format is unknown.
    """
    if format not in FORMATS:
        raise ValueError(f"--format={format} is unknown. Formats: {', '.join(FORMATS)}.")
    settings = run.network.head.settings
    source = {collection: dict(tree.get("source", {})) for collection, tree in run.variables.items()}
    head = run.variables["params"][HEAD]
    plain = settings.norm == "none" and not (settings.keep_classifier or settings.new_layers or settings.widen)
    description = run_directory.read_json(run.workdir / run_directory.SOURCE)
    if plain:
        source["params"][_classifier_name(description["network"])] = head["classifier"]
    tensors = to_state_dict(description["network"], source)
    if not plain:
        for collection in ("params", "batch_stats"):
            for layer, leaves in run.variables[collection].get(HEAD, {}).items():
                tensors |= {f"{HEAD}.{layer}.{leaf}": np.asarray(value) for leaf, value in leaves.items()}
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    named = {"network": description["network"], "settings": description["settings"], "class_names": list(run.class_names),
             "preprocessing": run.preprocessing.to_json(), "terms": description["terms"], "step": run.step,
             "head": dataclasses.asdict(settings) if not plain else None,
             "kept_class_names": description["class_names"] if settings.keep_classifier else None}
    weights, names = run.workdir / "export.safetensors", run.workdir / "export.json"
    weights.write_bytes(save(tensors, metadata={"format": "pt", "class_names": json.dumps(list(run.class_names)),
                                                "preprocessing": json.dumps(run.preprocessing.to_json()),
                                                "network": description["network"]}))
    run_directory.write_json(names, named)
    return [weights, names]


def _classifier_name(network: str) -> str:
    return "fc8" if network.startswith("vgg") else "fc"
