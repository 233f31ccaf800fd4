"""A run's weights as a file that other programs read."""

import dataclasses

import numpy as np
from etils import epath

from flax_augtl.errors import UserError
from flax_augtl.models import MODELS
from flax_augtl.models.augmented import HEAD
from flax_augtl.models.blocks import by_stage
from flax_augtl.pretrained.run_description import read_source
from flax_augtl.pretrained.save import write_safetensors
from flax_augtl.run import Run
from flax_augtl.workdir import files

FORMATS = ("safetensors",)


def export(run: Run, format: str = "safetensors") -> list[epath.Path]:
    """Write `export.safetensors` and `export.json` into the run directory and return their paths.

    The source network has torchvision's tensor names and layout. A head that is nothing but a target classifier on the
    penultimate features takes the place of torchvision's classification layer, so that the file loads into, say,
    `torchvision.models.resnet18(num_classes=k)`, and can be the `config.weights` of another run. The tensors of any
    other head stand beside it, as `head.<layer>.<tensor>` in Flax's layout (a kernel is [inputs, outputs]). The JSON
    holds class names, preprocessing, network, the head's settings and the terms of the weights.

    Raises:
      ValueError: the format is unknown.
    """
    if format not in FORMATS:
        raise UserError(f"--format={format} is unknown. Formats: {', '.join(FORMATS)}.")
    settings = run.network.head.settings
    source = {collection: by_stage(tree.get("source", {})) for collection, tree in run.variables.items()}
    described = read_source(run.workdir)
    described["settings"].pop("by_block", None)
    terms = {name: str(value) for name, value in described["terms"].items()}
    names = run.class_names
    extra: dict[str, np.ndarray] = {}
    plain = settings.norm == "none" and not (settings.keep_classifier or settings.new_layers or settings.widen)
    if plain:
        source["params"][MODELS[described["network"]].groups[-1]] = run.variables["params"][HEAD]["classifier"]
    else:
        names = described["class_names"] if settings.keep_classifier else ()
        for tree in run.variables.values():
            for layer, leaves in tree.get(HEAD, {}).items():
                extra |= {f"{HEAD}.{layer}.{leaf}": np.asarray(value) for leaf, value in leaves.items()}
    weights, sheet = run.workdir / "export.safetensors", run.workdir / "export.json"
    write_safetensors(
        weights,
        described["network"],
        source,
        run.preprocessing,
        tuple(names),
        settings=described["settings"],
        terms=terms,
        extra=extra,
    )
    files.write_json(
        sheet,
        {
            "network": described["network"],
            "settings": described["settings"],
            "class_names": list(run.class_names),
            "kept_class_names": list(names) if settings.keep_classifier else None,
            "head": None if plain else dataclasses.asdict(settings),
            "preprocessing": run.preprocessing.to_json(),
            "terms": terms,
            "step": run.step,
            "test": (run.result or {}).get("test"),
        },
    )
    return [weights, sheet]
