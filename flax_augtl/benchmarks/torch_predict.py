"""Predict a folder of photographs with ResNet-18 as a plain PyTorch script, to compare with. It needs torch and Pillow.

    python torch_predict.py FOLDER OUT.csv --classes=10

This is what people write: a DataLoader with worker processes, `channels_last`, `inference_mode`, torchvision's transform.
The weights are random, which changes no time. It imports nothing of this package, so any Python with torch runs it.
"""

import argparse
import csv
import importlib
import pathlib
from typing import Any

import numpy as np
from PIL import Image

torch: Any = importlib.import_module("torch")  # No dependency, so a type checker may not find it.
nn = torch.nn
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Photographs(torch.utils.data.Dataset):
    """The images of a folder, with torchvision's transform for ImageNet."""

    def __init__(self, folder: str, size: int):
        self.paths = sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file())
        self.size, self.short = size, round(size / 0.875)
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        """Return a normalised image, float32 [3, S, S]."""
        image = Image.open(self.paths[index]).convert("RGB")
        width, height = image.size
        short = self.short
        shape = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
        image = image.resize(shape, Image.Resampling.BILINEAR)
        left, top = round((shape[0] - self.size) / 2), round((shape[1] - self.size) / 2)
        image = image.crop((left, top, left + self.size, top + self.size))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        return (pixels - self.mean) / self.std


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
        return torch.relu_(self.body(x) + self.shortcut(x))


def resnet18(classes: int) -> Any:
    """Return torchvision's ResNet-18 with random weights."""
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    blocks, inputs = [], 64
    for width in (64, 128, 256, 512):
        blocks += [Block(inputs, width, 1 if width == 64 else 2), Block(width, width, 1)]
        inputs = width
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def main() -> None:
    """Predict what the command line names."""
    parser = argparse.ArgumentParser(description="Predict a folder of photographs with PyTorch.")
    parser.add_argument("folder")
    parser.add_argument("output")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    model = resnet18(given.classes).eval().to(memory_format=torch.channels_last)
    photographs = Photographs(given.folder, given.image_size)
    loader = torch.utils.data.DataLoader(photographs, given.batch_size, num_workers=given.workers)
    top, rows = min(5, given.classes), []
    with torch.inference_mode():
        for images in loader:
            found = torch.softmax(model(images.contiguous(memory_format=torch.channels_last)), 1)
            values, labels = found.topk(top)
            rows += zip(labels.tolist(), values.tolist(), strict=True)
    with open(given.output, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for path, (labels, values) in zip(photographs.paths, rows, strict=True):
            writer.writerow([path, *(cell for pair in zip(labels, values, strict=True) for cell in pair)])


if __name__ == "__main__":
    main()
