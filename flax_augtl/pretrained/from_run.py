"""Reads a run directory as a source network, for transfers in a chain: source → intermediate → target."""

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
    """A source network that was read from a run directory.

    Attributes:
      network: name of the source network.
      settings: fields of its module.
      variables: {"params", "batch_stats"} of NumPy arrays.
      preprocessing: of the run.
      class_names: of the classification layer; empty without one.
      terms: of the run's own source weights, and the run's name.
    """

    network: str
    settings: Mapping[str, Any]
    variables: Mapping[str, Any]
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    terms: Mapping[str, str]


def read_run(path: str | os.PathLike) -> RunSource:
    """Read the best weights of a finished run as the variables of a source network.

    The target classifier becomes the classification layer if the head has no other layers: a classifier on the
    penultimate features stays as it is, and one on the outputs of a kept layer is multiplied into that layer. Norms and
    new layers have no place in a source network. With them, the kept layer is the classification layer; without a kept
    layer there is none.

    Raises:
      CheckpointError: the run is not finished, or its checkpoint is missing or damaged.
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
    except Exception as error:  # Orbax raises a dozen types, depending on the damage.
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
