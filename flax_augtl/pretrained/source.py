"""A source network with everything that belongs to its weights."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.errors import UserError
from flax_augtl.models import MODELS, create_model
from flax_augtl.models.base import SourceNetwork
from flax_augtl.models.initializers import random_variables
from flax_augtl.models.registry import find
from flax_augtl.pretrained.class_names import default_names
from flax_augtl.pretrained.convert import to_variables
from flax_augtl.pretrained.entries import RAW
from flax_augtl.pretrained.errors import CheckpointError
from flax_augtl.pretrained.fetch import local_or_named
from flax_augtl.pretrained.from_run import is_run, read_run
from flax_augtl.pretrained.inspect import Inspection, inspect_checkpoint
from flax_augtl.pretrained.match import model_for
from flax_augtl.pretrained.unsettled import settle
from flax_augtl.runtime.text import for_terminal


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A source network, ready to run.

    Attributes:
      name: of the network in the registry.
      model: the Linen module.
      variables: {"params", "batch_stats"} of float32 arrays on the default device, by layer group.
      preprocess: the evaluation transform of these weights.
      class_names: of the classification layer's outputs; empty without that layer.
      terms: facts about the weights: origin, sha256, licence, attribution, …
      notes: sentences that the user must read, such as which of several networks in a file is used.
    """

    name: str
    model: SourceNetwork
    variables: Mapping[str, Any]
    preprocess: Preprocessing
    class_names: tuple[str, ...]
    terms: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return one line: which network, with which weights."""
        classes = f"{len(self.class_names)} classes" if self.class_names else "no classification layer"
        origin = self.terms.get("origin") or self.terms.get("run")
        return for_terminal(
            f"<Source {self.name}: {classes}, {self.preprocess.image_size} pixels{f', {origin}' if origin else ''}>"
        )

    @property
    def groups(self) -> tuple[str, ...]:
        """The layer groups, bottom to top."""
        return self.model.groups


def load_source(
    name: str | None,
    weights: str | os.PathLike | None = None,
    *,
    num_classes: int | None = 1000,
    dtype=jnp.float32,
    axis_name: str | None = None,
    sha256: str | None = None,
    entry: str | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> Source:
    """Load a source network.

    Args:
      name: of the network; None takes the one that the checkpoint fits.
      weights: a checkpoint: a file, a folder that holds one, the directory of a finished run, an address (https://,
        file://), "owner/repository[@revision]" on the Hugging Face Hub, or "embedded:glyphs"; None draws random
        weights from a fixed seed.
      num_classes: outputs of the classification layer of a random network. A checkpoint has its own number, or no such
        layer. None or 0 leaves the layer out, of a checkpoint too.
      dtype: of the computation.
      axis_name: mapped axis over which training batch statistics are averaged.
      sha256: the SHA-256 that the file must have; it is checked before the file is opened.
      entry: which network of a file with several, such as "state_dict"; None takes averaged weights, if there are
        averaged and raw ones; "raw" takes the others.
      preprocessing: fields of `Preprocessing` that replace those of the weights; None keeps a field.

    Raises:
      UserError: there is no such network, or the checkpoint cannot be used (CheckpointError); the message says why.
    """
    settings = dict(dtype=dtype, axis_name=axis_name)
    if name is not None:
        find(name)  # Raises before anything is downloaded.
    if weights is None:
        return _preprocessed(_random_source(name, num_classes, sha256, settings), preprocessing)
    weights = local_or_named(weights)
    if is_run(weights):
        if sha256 is not None:
            raise CheckpointError(f"{weights} is a run directory: many files, which one SHA-256 cannot stand for.")
        if entry not in (None, RAW):
            raise CheckpointError(
                f"config.weights_entry={entry!r} has no meaning for {weights}: it is a run directory."
            )
        return _preprocessed(_source_of_run(name, weights, bool(num_classes), settings), preprocessing)
    found = inspect_checkpoint(name, weights, classify=bool(num_classes), sha256=sha256, entry=entry)
    return load_inspected(found, classify=bool(num_classes), preprocessing=preprocessing, **settings)


def _preprocessed(source: Source, given: Mapping[str, Any] | None) -> Source:
    return dataclasses.replace(source, preprocess=settle(source.preprocess, (), given, source.name))


def load_inspected(
    found: Inspection, *, classify: bool = True, dtype=jnp.float32, axis_name: str | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> Source:  # fmt: skip
    """Read the weights of an inspected checkpoint; give the same `classify` to both functions; see `load_source`."""
    settings = {"dtype": dtype, "axis_name": axis_name}
    if unknown := sorted(set(found.settings) & {*settings, "name", "num_classes", "parent"}):
        raise CheckpointError(f"{found.file}: its notes set {', '.join(unknown)}, which notes must not set.")
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in found.settings.items()}
    try:
        model = model_for(found.name, found.tensors, classify=classify, **{**given, **settings})
    except ValueError as error:
        raise CheckpointError(f"{found.file}: {error}") from error
    # Before the weights, since reading them takes time.
    preprocess = settle(found.preprocessing or usual_preprocessing(found.name, model), found.unsettled, preprocessing,
                        str(found.file))  # fmt: skip
    variables = to_variables(found.tensors, model.slots())
    class_names = found.class_names if len(found.class_names) == (model.num_classes or 0) else ()
    return Source(
        found.name,
        model,
        variables,
        preprocess,
        class_names or default_names(model.num_classes),
        found.terms,
        found.notes,
    )


def _source_of_run(name, weights, classify, settings) -> Source:
    run = read_run(weights)
    if name not in (None, run.network):
        raise CheckpointError(
            f"{weights} is a run of {run.network}, not of {name}: give config.network={run.network!r}."
        )
    class_names = run.class_names if classify else ()
    model = create_model(run.network, num_classes=len(class_names) or None, **run.settings, **settings)
    variables = {
        collection: {group: jax.tree.map(jnp.asarray, tree) for group, tree in groups.items() if group in model.groups}
        for collection, groups in run.variables.items()
    }
    return Source(run.network, model, variables, run.preprocessing, class_names, run.terms)


def _random_source(name, num_classes, sha256, settings) -> Source:
    if name is None:
        raise UserError("Without weights, give the name of the network.")
    if sha256 is not None:
        raise UserError("A sha256 was given, but no weights that it could belong to.")
    model = create_model(name, num_classes=num_classes, **settings)
    variables = random_variables(model)
    terms = {"origin": "random weights"}
    return Source(name, model, variables, usual_preprocessing(name), default_names(num_classes), terms)


def usual_preprocessing(name: str, model: SourceNetwork | None = None) -> Preprocessing:
    """Return the preprocessing of a checkpoint without a description: torchvision's, at the network's usual size.

    Small images, as the CIFAR networks read them, are not cropped: they have no border to spare.
    """
    size = 32 if getattr(model, "stem", None) == "cifar" else MODELS[name].image_size
    return Preprocessing(image_size=size, crop_fraction=0.875 if size >= 64 else 1.0)
