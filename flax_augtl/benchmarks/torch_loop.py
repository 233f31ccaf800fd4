"""Fine-tuning as a plain PyTorch loop, to compare with. It needs torch and torchvision."""

import importlib
import time
from typing import Any

CHILDREN = {"stem": ("conv1", "bn1", "relu", "maxpool")}


def seconds_per_example(
    name: str,
    depth: str,
    groups: tuple[str, ...],
    *,
    classes: int,
    image_size: int,
    batch_sizes: tuple[int, ...],
    repeats: int,
) -> tuple[float, int]:
    """Time a training step of a torchvision ResNet with everything up to a layer group frozen.

    The frozen layers run under `no_grad` and in eval mode, in channels_last; SGD with Nesterov momentum.

    Args:
      name: of the network in torchvision.
      depth: the topmost frozen layer group, or `none`.
      groups: all layer groups, bottom to top.
      classes: of the new classifier.
      image_size: side of the images.
      batch_sizes: of which the fastest counts.
      repeats: timed steps with each; the fastest counts.

    Returns:
      Seconds for an example, and the batch size with which they were reached.
    """
    # Neither is a dependency, so a type checker may not find them.
    torch, torchvision = importlib.import_module("torch"), importlib.import_module("torchvision")

    model = getattr(torchvision.models, name)(num_classes=classes).to(memory_format=torch.channels_last)
    frozen = groups[: groups.index(depth) + 1] if depth != "none" else ()
    modules = {
        group: torch.nn.Sequential(*(getattr(model, child) for child in CHILDREN.get(group, (group,))))
        for group in groups
        if group != "fc"
    }
    for module in modules.values():
        module.train()
    prefix = torch.nn.Sequential(*(modules[group] for group in modules if group in frozen)).eval().requires_grad_(False)
    suffix = torch.nn.Sequential(
        *(modules[group] for group in modules if group not in frozen), *([model.avgpool, torch.nn.Flatten()]), model.fc
    )
    optimizer = torch.optim.SGD([p for p in suffix.parameters() if p.requires_grad], 0.01, momentum=0.9, nesterov=True)

    def step(images: Any, labels: Any) -> None:
        with torch.no_grad():
            x = prefix(images)
        loss = torch.nn.functional.cross_entropy(suffix(x), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()

    best = (float("inf"), 0)
    for size in batch_sizes:
        images = torch.randn(size, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
        labels = torch.randint(0, classes, (size,))
        step(images, labels)
        for _ in range(repeats):
            begun = time.perf_counter()
            step(images, labels)
            best = min(best, ((time.perf_counter() - begun) / size, size))
    return best
