"""A run's weights as a safetensors file."""

import numpy as np
from etils import epath

from flax_augtl.export.settings import ExportSettings
from flax_augtl.export.sheet import described, head_tensors, is_plain
from flax_augtl.models import MODELS
from flax_augtl.models.augmented import HEAD
from flax_augtl.models.blocks import by_stage
from flax_augtl.pretrained.save import write_safetensors
from flax_augtl.run import Run


def write_weights(run: Run, path: epath.Path, settings: ExportSettings) -> None:
    """Write the weights of a run, with notes on the network in the metadata.

    The source network has torchvision's tensor names and layout. A head that is nothing but a target classifier on the
    penultimate features takes the place of torchvision's classification layer, so that the file loads into, say,
    `torchvision.models.resnet18(num_classes=k)`, and can be the `config.weights` of another run. The tensors of any
    other head stand beside it, as `head.<layer>.<tensor>` in Flax's layout (a kernel is [inputs, outputs]);
    `load.load_export` reads them again.
    """
    source = {collection: by_stage(tree.get("source", {})) for collection, tree in run.variables.items()}
    found, names, extra = described(run), run.class_names, {}
    if is_plain(run):
        source["params"][MODELS[found["network"]].groups[-1]] = run.variables["params"][HEAD]["classifier"]
    else:
        names = found["class_names"] if run.network.head.settings.keep_classifier else ()
        extra = {name: np.asarray(value) for name, value in head_tensors(run).items()}
    write_safetensors(
        path,
        found["network"],
        source,
        run.preprocessing,
        tuple(names),
        settings=found["settings"],
        terms=found["terms"],
        extra=extra,
        weights=settings.weights,
    )
