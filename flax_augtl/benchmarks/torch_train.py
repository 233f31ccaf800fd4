"""Fine-tune ResNet-18 on a folder of photographs in a plain PyTorch loop, to compare with. It needs torch and Pillow.

    python torch_train.py FOLDER --depth=layer3 --epochs=2

This is what people write: a DataLoader with two worker processes, RandomResizedCrop and a flip, `channels_last`, the frozen
layers in eval mode under `no_grad`, SGD with Nesterov momentum, an evaluation and a checkpoint after every epoch. The
weights are random, which changes no time. It imports nothing of this package, so any Python with torch runs it.
"""

import argparse
import importlib
import json
import math
import os
import pathlib
import random
import tempfile
import time
from typing import Any

import numpy as np
from PIL import Image

torch: Any = importlib.import_module("torch")  # No dependency, so a type checker may not find it.
nn = torch.nn
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GROUPS = ("stem", "layer1", "layer2", "layer3", "layer4")


class Photographs(torch.utils.data.Dataset):
    """Images of the folders of some classes, with torchvision's transforms."""

    def __init__(self, paths: list[pathlib.Path], classes: list[str], size: int, training: bool):
        self.paths, self.classes, self.size, self.training = paths, classes, size, training
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        """Return a normalised image, float32 [3, S, S], and its label."""
        path = self.paths[index]
        image = Image.open(path).convert("RGB")
        if self.training:
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=_random_box(*image.size))
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image
        else:
            short = round(self.size / 0.875)
            scale = short / min(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
            left, top = (image.width - self.size) // 2, (image.height - self.size) // 2
            image = image.crop((left, top, left + self.size, top + self.size))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        return (pixels - self.mean) / self.std, self.classes.index(path.parent.name)


def _random_box(width: int, height: int) -> tuple[float, float, float, float]:
    """Return a box as RandomResizedCrop draws it, from a quarter of the image's area on."""
    for _ in range(10):
        area, ratio = (
            width * height * random.uniform(0.25, 1.0),
            math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3))),
        )
        across, down = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if across <= width and down <= height:
            left, top = random.uniform(0, width - across), random.uniform(0, height - down)
            return left, top, left + across, top + down
    return 0.0, 0.0, float(width), float(height)


class Block(nn.Module):
    """A residual block of two 3×3 convolutions."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != width:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Any) -> Any:
        """Compute the block."""
        return torch.relu(self.body(x) + self.shortcut(x))


def network(depth: str, classes: int) -> tuple[Any, Any]:
    """Return the frozen and the trained part of a ResNet-18 with a new classifier."""
    stem = nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
    )
    groups, inputs = [stem], 64
    for width in (64, 128, 256, 512):
        groups.append(nn.Sequential(Block(inputs, width, 1 if width == 64 else 2), Block(width, width, 1)))
        inputs = width
    groups[-1] = nn.Sequential(groups[-1], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    count = len(GROUPS) if depth == "all" else GROUPS.index(depth) + 1
    frozen = nn.Sequential(*groups[:count]).eval().requires_grad_(False)
    trained = nn.Sequential(*groups[count:], nn.Linear(inputs, classes))
    return tuple(part.to(memory_format=torch.channels_last) for part in (frozen, trained))


def main() -> None:
    """Train as the command line says, and print the seconds of every epoch as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="with train/CLASS/ and val/CLASS/")
    parser.add_argument("--depth", default="all", help="the topmost frozen layer group, or all")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--image_size", type=int, default=224)
    arguments = parser.parse_args()

    def paths(part: str) -> list[pathlib.Path]:
        return sorted(path for path in (arguments.folder / part).glob("*/*") if path.is_file())

    found = paths("train")
    random.Random(0).shuffle(found)
    classes = sorted({path.parent.name for path in found})
    held = len(found) // 5
    sets = {"train": found[held:], "val": found[:held], "test": paths("val")}
    loaders = {
        split: torch.utils.data.DataLoader(
            Photographs(some, classes, arguments.image_size, split == "train"),
            batch_size=arguments.batch_size,
            shuffle=split == "train",
            num_workers=2,
        )
        for split, some in sets.items()
    }
    frozen, trained = network(arguments.depth, len(classes))
    optimizer = torch.optim.SGD(trained.parameters(), 0.01, momentum=0.9, nesterov=True)

    def evaluate(split: str) -> None:
        trained.eval()
        with torch.inference_mode():
            for images, labels in loaders[split]:
                (trained(frozen(images.to(memory_format=torch.channels_last))).argmax(1) == labels).sum().item()

    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for epoch in range(arguments.epochs):
            begun, before = time.perf_counter(), sum(os.times()[:4])
            trained.train()
            for images, labels in loaders["train"]:
                with torch.no_grad():
                    x = frozen(images.to(memory_format=torch.channels_last))
                loss = nn.functional.cross_entropy(trained(x), labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                loss.item()
            evaluate("val")
            torch.save({"network": trained.state_dict(), "optimizer": optimizer.state_dict()}, f"{folder}/{epoch}.pt")
            # The workers have ended, so that their time counts.
            seconds.append((time.perf_counter() - begun, sum(os.times()[:4]) - before))
        evaluate("test")
    print(json.dumps({"epochs": seconds}))


if __name__ == "__main__":
    main()
