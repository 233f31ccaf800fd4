"""A run directory of this program as a source network: chain transfers, source → intermediate → target."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.models import MODELS
from flax_augtl.models.blocks import by_stage
from flax_augtl.pretrained.errors import CheckpointError
from flax_augtl.pretrained.fetch import is_address
from flax_augtl.pretrained.run_description import read_preprocessing, read_run_description, read_source
from flax_augtl.runtime.text import first_line
from flax_augtl.workdir import checksums, files, network_checkpoint
from flax_augtl.workdir.description import read_result


def is_run(path: str | os.PathLike) -> bool:
    """Tell whether a path is a run directory."""
    return not is_address(path) and (epath.Path(path) / files.SOURCE).exists()


@dataclasses.dataclass(frozen=True)
class RunSource:
    """What a run gives to the next.

    Attributes:
      network: name of the source network.
      settings: fields of its module.
      variables: {"params", "batch_stats"} of numpy arrays.
      preprocessing: of the run.
      class_names: of the classification layer; none without one.
      terms: of the weights that the run started from, and the run's name.
    """

    network: str
    settings: Mapping[str, Any]
    variables: Mapping[str, Any]
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    terms: Mapping[str, str]


def read_run(path: str | os.PathLike) -> RunSource:
    """Read the best weights of a finished run as those of a source network.

    Its target classifier becomes the classification layer, where the two are linear in one another: on the penultimate
    features it is taken as it is, and on the outputs of a kept layer, without norm, it is multiplied into that layer.
    Normalised and new layers have no place in a source network and are left behind: what stays then is the kept layer
    as the run left it, or no classification layer.

    Raises:
      CheckpointError: the run is not finished, or its checkpoint is not there.
    """
    path = epath.Path(os.path.abspath(path) if "://" not in os.fspath(path) else path)
    files.check_links(path)
    source = read_source(path)
    result = read_result(path)
    if result is None:
        raise CheckpointError(f"{path} is the directory of a run that is not finished; finish it first, or export it.")
    step = result["best_step"]
    checkpoint = path / files.CHECKPOINTS / str(step) / "network"
    if not checkpoint.exists():
        raise CheckpointError(f"{path} has no checkpoint of its best step, {step}.")
    if damage := checksums.damage(checkpoint.parent) or network_checkpoint.frozen_damage(checkpoint.parent.parent):
        raise CheckpointError(f"{path}: the checkpoint of its best step, {step}, cannot be used: {damage}.")
    try:
        tree = network_checkpoint.read(path / files.CHECKPOINTS, step)
        variables = {name: by_stage(tree.get(name, {}).get("source", {})) for name in ("params", "batch_stats")}
        params, head = variables["params"], tree["params"]["head"]
    except Exception as error:  # Orbax raises a dozen kinds, by what in its files is not as it wrote them.
        raise CheckpointError(
            f"{path}: the checkpoint of its best step, {step}, cannot be read: {first_line(error)}"
        ) from error
    top = MODELS[source["network"]].groups[-1]
    class_names = tuple(source["class_names"]) if top in params else ()
    if set(head) == {"classifier"}:
        class_names = read_run_description(path).class_names
        below = params.get(top)
        params[top] = (
            head["classifier"]
            if below is None
            else {
                "kernel": below["kernel"] @ head["classifier"]["kernel"],
                "bias": below["bias"] @ head["classifier"]["kernel"] + head["classifier"]["bias"],
            }
        )
    preprocessing = read_preprocessing(path)
    settings = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in source["settings"].items()
        if name != "by_block"
    }
    terms = {**{name: str(value) for name, value in source["terms"].items()}, "run": path.name}
    return RunSource(source["network"], settings, variables, preprocessing, class_names, terms)
