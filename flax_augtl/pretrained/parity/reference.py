"""The original implementations of the networks, to compare with: torchvision, timm, keras.applications.

Only `--verify` and the parity tests use this module; loading a checkpoint needs none of these libraries.
"""

import dataclasses
import enum
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flax_augtl.models import MODELS
from flax_augtl.models.base import SourceNetwork
from flax_augtl.models.registry import family_of
from flax_augtl.pretrained.errors import CheckpointError


class Library(enum.StrEnum):
    """The libraries that have an original."""

    TORCHVISION = "torchvision"
    TIMM = "timm"
    KERAS = "keras.applications"


_TIMM_VGG = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2"}


def torch_network(library: Library, name: str, model: SourceNetwork):
    """Build a network in PyTorch, in inference mode and in the variant of `model`, still without weights.

    Args:
      library: torchvision or timm.
      name: of the network.
      model: its Linen module.

    Raises:
      CheckpointError: the library is not installed or has no such network.
    """
    if MODELS[name].image_size != 224:
        raise CheckpointError(f"{name} has no original in {library}.")
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
    if fields.get("global_pool") or fields.get("stem", "imagenet") != "imagenet":
        raise CheckpointError(f"{library} has no {name} in the variant of these weights.")
    try:
        import torch  # pyright: ignore[reportMissingImports]  # An optional extra.

        # On "meta" a network has shapes but no memory: drawing initial weights for a VGG takes seconds.
        if library == Library.TIMM:
            import timm  # pyright: ignore[reportMissingImports]  # An optional extra.

            if not timm.is_model(name):
                raise CheckpointError(f"timm has no {name}.")
            with torch.device("meta"):
                network = timm.create_model(name, pretrained=False, num_classes=model.num_classes or 0)
        else:
            import torchvision  # pyright: ignore[reportMissingImports]  # An optional extra.

            with torch.device("meta"):
                network = torchvision.models.get_model(name, weights=None, num_classes=model.num_classes or 1)
            if not model.num_classes:
                network.set_submodule(model.PUBLISHED_CLASSIFIER, torch.nn.Identity())
    except ImportError as error:
        raise CheckpointError(
            f"Comparing with the original needs {library}: pip install 'flax_augtl[parity]' ({error})."
        ) from error
    if "conv_bias" in fields and (fields["conv_bias"] or fields["epsilon"] != 1e-5):
        raise CheckpointError(f"{library} has no ResNet with biases in its convolutions.")
    if fields.get("v1_stride"):
        for stage in (network.layer2, network.layer3, network.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    return network.eval()


def torch_activations(network, model: SourceNetwork, x: np.ndarray) -> dict[str, np.ndarray]:
    """Run a PyTorch network and return the outputs of every block, as `block_outputs.block_activations` does.

    Args:
      network: from `torch_network`, with its weights.
      model: its Linen module.
      x: preprocessed images [N, H, W, 3].
    """
    import torch  # pyright: ignore[reportMissingImports]  # An optional extra.

    kept, modules = {}, dict(network.named_modules())

    def keep(name):
        def hook(module, inputs, output):
            # Copy, because the ReLU that follows writes into the same memory.
            value = output.detach().clone()
            value = value.flatten(1) if value.ndim == 4 and name.startswith("fc") else value
            value = value.permute(0, 2, 3, 1) if value.ndim == 4 else value
            kept[name] = value.relu().numpy() if model.RELU_AFTER_BLOCK else value.numpy()

        return hook

    hooks = [
        modules[torch_name if torch_name in modules else _TIMM_VGG[torch_name]].register_forward_hook(keep(name))
        for name, torch_name in model.torch_modules().items()
    ]
    with torch.inference_mode():
        logits = network(torch.from_numpy(np.array(x.transpose(0, 3, 1, 2), np.float32)))
    for hook in hooks:
        hook.remove()
    return {**{name: kept[name] for name in model.block_names[:-1]}, "logits": logits.numpy()}


def load_torch_weights(network, tensors: Mapping[str, np.ndarray]):
    """Load a state dict in torchvision's names into a network of torchvision or timm."""
    import torch  # pyright: ignore[reportMissingImports]  # An optional extra.

    state = {name: torch.from_numpy(np.require(value, np.float32, ["C", "W"])) for name, value in tensors.items()}
    own = network.state_dict()
    if "pre_logits.fc1.weight" in own:
        names = {**_TIMM_VGG, "classifier.6": "head.fc"}
        for name in list(state):
            layer, _, part = name.rpartition(".")
            if layer in names:
                new = f"{names[layer]}.{part}"
                state[new] = state.pop(name).reshape(own[new].shape)
    else:
        # Keras' and timm's fc6 may be a 7×7 convolution.
        state = {name: value.reshape(own[name].shape) for name, value in state.items()}
    state |= {name: torch.zeros((), dtype=torch.int64) for name in own if name.endswith("num_batches_tracked")}
    network.load_state_dict(state, assign=True)


def keras_network(name: str, classes: int | None):
    """Build a network of keras.applications, without its softmax.

    Raises:
      CheckpointError: Keras is not installed or has no such network.
    """
    try:
        import keras  # pyright: ignore[reportMissingImports]  # An optional extra.
    except ImportError as error:
        raise CheckpointError(f"Comparing with the original needs Keras: pip install keras ({error}).") from error
    if not classes:
        raise CheckpointError(
            f"keras.applications compares whole networks, and this {name} has no classification layer."
        )
    # The name of a family's class is its name in Keras: VGG16, ResNet50.
    published = name.replace(MODELS[name].family, family_of(name).__name__)
    build = getattr(keras.applications, published, None)
    if build is None:
        raise CheckpointError(f"keras.applications has no {name}.")
    return build(weights=None, classes=classes, classifier_activation=None)


def load_keras_weights(network, path: Path):
    """Load the weights of a .h5, .weights.h5 or .keras file with Keras."""
    with tempfile.TemporaryDirectory() as folder:
        # Keras goes by the name: it needs different endings for the two layouts of HDF5.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                target = Path(archive.extract("model.weights.h5", folder))
        else:
            import h5py

            with h5py.File(path) as file:
                new = "layers" in file or "_layer_checkpoint_dependencies" in file
            target = Path(folder) / ("linked.weights.h5" if new else "linked.h5")
            target.symlink_to(path.resolve())
        network.load_weights(target)


def keras_activations(network, model: SourceNetwork, x: np.ndarray) -> dict[str, np.ndarray]:
    """Run a Keras network and return the outputs of every block, as `block_outputs.block_activations` does."""
    import keras  # pyright: ignore[reportMissingImports]  # An optional extra.

    layers = {name: model.keras_layer(name) for name in model.block_names[:-1]}
    outputs = [network.get_layer(layer).output for layer in layers.values()]
    values = keras.Model(network.inputs, [*outputs, network.output])(np.asarray(x, np.float32), training=False)
    values = [np.asarray(keras.ops.convert_to_numpy(value)) for value in values]
    return dict(zip([*layers, "logits"], values, strict=True))
