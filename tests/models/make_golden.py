"""Writes golden.json: the tensors and outputs of torchvision's networks, small and with random weights.

    python tests/models/make_golden.py

The weights come from `numpy.random.RandomState`, whose stream numpy guarantees, with a seed from the name of the case. So
only the names and shapes of torchvision's tensors, and the outputs, need to be kept. Writing them needs the `parity` extra;
the tests that read golden.json do not.
"""

import json
import pathlib
import zlib

import numpy as np

GOLDEN = pathlib.Path(__file__).with_name("golden.json")

# name → (registered network, settings that make it small, height and width of the input)
CASES = {
    "basic": ("resnet18", {"stage_sizes": (2, 1, 1, 1)}, (65, 50)),
    "bottleneck": ("resnet50", {"stage_sizes": (1, 2, 1, 1)}, (64, 64)),
    "vgg": ("vgg11", {"widths": (8, 12, 16, 20, 24), "hidden": 32}, (224, 161)),
    "vgg_bn": ("vgg16_bn", {"widths": (8, 12, 16, 20, 24), "hidden": 32}, (70, 300)),
    "cifar": ("resnet20", {"widths": (64, 128, 256)}, (32, 32)),
    "alexnet": ("alexnet", {"widths": (8, 12, 16, 20, 24), "hidden": 32}, (224, 161)),
}
CLASSES = 7


def seed_of(case: str) -> int:
    """Return the seed of a case, which does not depend on the other cases."""
    return zlib.crc32(case.encode())


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Draw a state dict whose batch-norm statistics are random too, and whose activations stay near one."""
    random = np.random.RandomState(seed)
    tensors = {}
    for name in sorted(shapes):
        shape = shapes[name]
        if len(shape) > 1:
            value = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith(("running_var", "weight")):
            value = random.uniform(0.5, 1.5, shape)
        else:
            value = 0.2 * random.standard_normal(shape)
        tensors[name] = value.astype(np.float32)
    return tensors


def images(size: tuple[int, int], seed: int) -> np.ndarray:
    """Draw two normalised images, float32 [2, H, W, 3]."""
    return np.random.RandomState(seed).standard_normal((2, *size, 3)).astype(np.float32)


def torchvision_network(case: str):
    """Build the case with torchvision's own classes."""
    from torch import nn
    from torchvision.models import resnet, vgg
    from torchvision.models.alexnet import AlexNet

    _, settings, _ = CASES[case]
    if case.startswith("vgg"):
        pattern = {"vgg": "A", "vgg_bn": "D"}[case]
        widths = iter(settings["widths"])
        layers, width = [], next(widths)
        for entry in vgg.cfgs[pattern]:
            layers.append("M" if entry == "M" else width)
            if entry == "M":
                width = next(widths, None)
        network = vgg.VGG(vgg.make_layers(layers, batch_norm=case == "vgg_bn"), num_classes=CLASSES)
        hidden = settings["hidden"]
        network.classifier[0] = nn.Linear(settings["widths"][-1] * 49, hidden)
        network.classifier[3] = nn.Linear(hidden, hidden)
        network.classifier[6] = nn.Linear(hidden, CLASSES)
        return network
    if case == "alexnet":
        network, inputs, hidden = AlexNet(num_classes=CLASSES), 3, settings["hidden"]
        convolutions = [index for index, layer in enumerate(network.features) if isinstance(layer, nn.Conv2d)]
        for index, width in zip(convolutions, settings["widths"], strict=True):
            old = network.features[index]
            network.features[index] = nn.Conv2d(inputs, width, old.kernel_size, old.stride, old.padding)
            inputs = width
        network.classifier[1] = nn.Linear(inputs * 36, hidden)
        network.classifier[4] = nn.Linear(hidden, hidden)
        network.classifier[6] = nn.Linear(hidden, CLASSES)
        return network
    if case == "cifar":
        network = resnet.ResNet(resnet.BasicBlock, [3, 3, 3, 1], num_classes=CLASSES)
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        network.maxpool = network.layer4 = nn.Identity()
        network.fc = nn.Linear(256, CLASSES)
        return network
    block = {"basic": resnet.BasicBlock, "bottleneck": resnet.Bottleneck}[case]
    return resnet.ResNet(block, list(settings["stage_sizes"]), num_classes=CLASSES)


def as_text(golden: dict) -> str:
    """Return the contents of golden.json, with one tensor a line."""
    cases = []
    for case, values in golden.items():
        tensors = ",\n".join(f"   {json.dumps(name)}: {json.dumps(shape)}" for name, shape in values["tensors"].items())
        cases.append(
            f' {json.dumps(case)}: {{\n  "logits": {json.dumps(values["logits"])},\n  "tensors": {{\n{tensors}\n  }}\n }}'
        )
    return "{\n" + ",\n".join(cases) + "\n}\n"


def main():
    import torch

    golden = {}
    for case, (_, _, size) in CASES.items():
        seed = seed_of(case)
        network = torchvision_network(case).eval()
        shapes = {n: tuple(t.shape) for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}
        tensors = random_tensors(shapes, seed)
        network.load_state_dict({n: torch.from_numpy(t) for n, t in tensors.items()})
        with torch.no_grad():
            logits = network(torch.from_numpy(images(size, seed).transpose(0, 3, 1, 2)))
        golden[case] = {"tensors": shapes, "logits": [[float(f"{v:.7g}") for v in row] for row in logits.tolist()]}
    GOLDEN.write_text(as_text(golden))


if __name__ == "__main__":
    main()
