#!/usr/bin/env python3
"""Predict the images in a folder with an exported network: `python predict_onnx.py FOLDER`.

Needs numpy, Pillow and onnxruntime, and `export.onnx` and `export_onnx.json` beside this file. Writes predictions.csv
and prints the likeliest class of each image. A file that cannot be read has a row with the reason. The exit code is 2 if
some images could not be read, and 1 if none could.
"""

import argparse
import csv
import json
import math
import pathlib
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = pathlib.Path(__file__).resolve().parent
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".avif")
LONGEST = 100  # Of an image that is more times as long as it is wide, only the centre is scaled.


def read_image(path):
    """Return an image as upright RGB, transparency laid on white."""
    with Image.open(path) as image:
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            image = Image.fromarray(np.clip(np.rint(np.asarray(image) / 257), 0, 255).astype(np.uint8))
        if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
            layer = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        return image.convert("RGB")


def crop(image, preprocessing):
    """Resize an RGB image and cut out the centre: uint8 [S, S, 3]."""
    size = preprocessing["image_size"]
    side = math.floor(size / preprocessing["crop_fraction"] + 1e-6)
    if preprocessing["resize"] == "short_side":
        longest = LONGEST * min(image.size)
        left, top = (max(0, extent - longest) // 2 for extent in image.size)
        image = image.crop((left, top, image.width - left, image.height - top)) if left or top else image
        width, height = image.size
        new = (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
    else:
        new = (side, side) if preprocessing["resize"] == "squash" else image.size
    if new != image.size:
        image = image.resize(new, getattr(Image.Resampling, preprocessing["interpolation"].upper()))
    left, top = (int(round((extent - size) / 2)) for extent in image.size)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def normalise(pixels, preprocessing):
    """Return uint8 pixels [N, S, S, 3] as the input of a network that was exported with --input=float."""
    x = pixels.astype(np.float32) / np.float32(255 / preprocessing["value_range"])
    x = x[..., ::-1] if preprocessing["channel_order"] == "BGR" else x
    return (x - np.float32(preprocessing["mean"])) / np.float32(preprocessing["std"])


class Network:
    """An exported network with what the JSON beside it says."""

    def __init__(self, folder=HERE):
        self.sheet = json.loads((pathlib.Path(folder) / "export_onnx.json").read_text("utf-8"))
        self.session = onnxruntime.InferenceSession(
            str(pathlib.Path(folder) / "export.onnx"), providers=onnxruntime.get_available_providers()
        )
        self.class_names = self.sheet["class_names"]

    def outputs(self, images):
        """Return all outputs of the network for RGB images of any size, as a dict of arrays."""
        preprocessing = self.sheet["preprocessing"]
        pixels = np.stack([crop(image, preprocessing) for image in images])
        given = self.session.get_inputs()[0]
        batch = pixels if given.type == "tensor(uint8)" else normalise(pixels, preprocessing)
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, {given.name: batch}), strict=True))

    def predict(self, images):
        """Return probabilities, float32 [N, classes], of RGB images of any size; calibrated if the run is."""
        return self.predict_familiar(images)[0]

    def predict_familiar(self, images):
        """Return probabilities and the familiarity, float32 [N]; None for it if the export does not have it."""
        found = self.outputs(images)
        if "probabilities" not in found:
            raise SystemExit("error: this network gives no probabilities. Export it with --outputs=probabilities.")
        familiar = found.get("familiarity")
        return np.asarray(found["probabilities"]), None if familiar is None else np.asarray(familiar)


def find_images(path):
    """Return the images in a folder and below it, or the one image."""
    if path.is_file():
        return [path]
    return sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in SUFFIXES and file.is_file() and not file.name.startswith(".")
    )


def for_spreadsheet(text):
    """Return a text that spreadsheets show rather than compute."""
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def main():
    """Predict what the command line names."""
    parser = argparse.ArgumentParser(description="Predict images with export.onnx.")
    parser.add_argument("images", type=pathlib.Path, help="a folder, or one image")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("predictions.csv"))
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--unknown_below", type=float, default=0.05, help="mark images of a lower familiarity")
    given = parser.parse_args()
    paths = find_images(given.images)
    if not paths:
        raise SystemExit(f"error: there are no images in {given.images}.")
    network, rows, bad, more = Network(), {}, {}, []
    top = min(5, len(network.class_names))
    for start in range(0, len(paths), given.batch_size):
        images, kept = [], []
        for path in paths[start : start + given.batch_size]:
            try:
                images.append(read_image(path))
                kept.append(path)
            except Exception as error:  # Pillow raises many kinds for damaged files.
                bad[path] = str(error) or type(error).__name__
                print(f"warning: {path} could not be read: {bad[path]}", file=sys.stderr)
        found, familiar = network.predict_familiar(images) if images else ((), None)
        for place, (path, row) in enumerate(zip(kept, found, strict=True)):
            best = np.argsort(-row, kind="stable")[:top]
            rows[path] = [cell for i in best for cell in (network.class_names[i], f"{row[i]:.6f}")]
            mark = ""
            if familiar is not None:
                more = ["familiarity", "unknown"]
                unknown = familiar[place] < given.unknown_below
                rows[path] += [f"{familiar[place]:.4f}", "yes" if unknown else "no"]
                mark = f"UNKNOWN? (familiarity {familiar[place]:.4f})  " if unknown else ""
            print(f"{path}  {mark}{network.class_names[best[0]]} {row[best[0]]:.1%}")
    columns = [name + str(rank) * (rank > 1) for rank in range(1, top + 1) for name in ("label", "probability")] + more
    # A file that cannot be read has no label, and the last column says why.
    table = [[str(path), *rows.get(path, [""] * len(columns)), bad.get(path, "")] for path in paths]
    with open(given.output, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [["path", *columns, "reason"], *([for_spreadsheet(cell) for cell in row] for row in table)]
        )
    print(f"\n{len(rows)} images, in full in {given.output}")
    sys.exit(0 if not bad else 2 if rows else 1)


if __name__ == "__main__":
    main()
