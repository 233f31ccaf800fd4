"""Compares a loaded checkpoint with its original implementation, block by block."""

import numpy as np

from flax_augtl.pretrained.inspect import Inspection
from flax_augtl.pretrained.key_names import Names
from flax_augtl.pretrained.parity import reference
from flax_augtl.pretrained.parity.block_outputs import block_activations, differences
from flax_augtl.pretrained.parity.reference import Library
from flax_augtl.pretrained.source import Source


def verify(found: Inspection, source: Source, x: np.ndarray) -> tuple[Library, dict[str, float]]:
    """Run a checkpoint in this program and in its original library, and compare the two.

    The original gets the checkpoint's own tensors, renamed if needed but never converted; Keras reads its own file.

    Args:
      found: the checkpoint.
      source: the same checkpoint, loaded.
      x: preprocessed images [N, H, W, 3].

    Returns:
      The original library, and for every block the largest difference relative to the block's scale.

    Raises:
      CheckpointError: the library is not installed, or has no such network.
    """
    x = np.asarray(x)
    if found.names is Names.KERAS:
        network = reference.keras_network(found.name, source.model.num_classes)
        reference.load_keras_weights(network, found.file)
        library, theirs = Library.KERAS, reference.keras_activations(network, source.model, x)
    else:
        # transformers' ResNet is torchvision's under other names.
        library = Library.TIMM if found.names is Names.TIMM else Library.TORCHVISION
        network = reference.torch_network(library, found.name, source.model)
        reference.load_torch_weights(network, {name: t.read() for name, t in found.tensors.items()})
        theirs = reference.torch_activations(network, source.model, x)
    return library, differences(block_activations(source.model, source.variables, x), theirs)
