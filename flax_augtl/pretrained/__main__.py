"""Describe a checkpoint, classify images with it, and compare it with the original implementation.

python -m flax_augtl.pretrained CHECKPOINT [--model=NAME] [--sha256=HEX] [--entry=NAME] [--images=FOLDER] [--verify]
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from flax_augtl.data.images.decode import UnreadableImage, read_image
from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.data.sources.patterns import find_images
from flax_augtl.errors import UserError
from flax_augtl.pretrained.fetch import local_or_named
from flax_augtl.pretrained.from_run import is_run
from flax_augtl.pretrained.inspect import Inspection, inspect_checkpoint
from flax_augtl.pretrained.parity.verify import verify
from flax_augtl.pretrained.source import Source, load_inspected, load_source
from flax_augtl.runtime.text import columns, for_terminal, on_one_line


def _summary(found, source: Source) -> Iterator[tuple[str, str]]:
    leaves = jax.tree.leaves(source.variables["params"])
    p = source.preprocess
    names = source.class_names
    yield "checkpoint", str(found.file)
    yield "layout", found.layout
    yield "network", found.name + "".join(f", {k}={v}" for k, v in found.settings.items())
    yield "parameters", f"{sum(leaf.size for leaf in leaves):,}"
    yield "classes", f"{len(names)}: {', '.join(names[:3])}, …" if names else "none"
    yield "preprocessing", f"{_resizing(p)}, crop {p.image_size}, {p.interpolation}, {p.channel_order}"
    yield "", f"range {p.value_range:g}, mean {p.mean}, std {p.std}"
    if found.preprocessing is None:
        yield "", "(the checkpoint does not describe it: this is the usual one)"
    yield from source.terms.items()


def _resizing(p: Preprocessing) -> str:
    return "no resize" if p.resize == "none" else f"{p.resize.replace('short_side', 'resize')} {p.resize_size}"


def _open(checkpoint: str, model: str | None, sha256: str | None, entry: str | None) -> tuple[Inspection, Source]:
    if not is_run(local_or_named(checkpoint)):
        found = inspect_checkpoint(model, checkpoint, sha256=sha256, entry=entry)
        return found, load_inspected(found)
    source = load_source(model, checkpoint, sha256=sha256, entry=entry)
    found = Inspection(
        source.name,
        Path(checkpoint),
        None,
        "a run directory of this program, in Orbax",
        {},
        {},
        source.preprocess,
        source.class_names,
        source.terms,
    )
    return found, source


def _show_predictions(source: Source, images: str) -> list[str]:
    """Print the likeliest classes of images; return the images that cannot be read, with the reason."""
    run, unreadable = jax.jit(source.model.apply), []
    for path in find_images(images):
        try:
            pixels = np.asarray(read_image(path))
        except UnreadableImage as error:
            unreadable.append(f"{path}: {error.reason}")
            continue
        probabilities = np.asarray(jax.nn.softmax(run(source.variables, source.preprocess([pixels]))[0]))
        best = np.argsort(-probabilities)[:5]
        print(on_one_line(f"{path}: " + ", ".join(f"{source.class_names[i]} {probabilities[i]:.1%}" for i in best)))
    return unreadable


def _show_verification(found, source: Source):
    size = source.preprocess.image_size
    x = np.random.default_rng(0).standard_normal((1, size, size, 3)).astype(np.float32)
    library, found_differences = verify(found, source, x)
    print(f"\nlargest difference from {library}, relative to the block's largest value")
    print(columns([[name, f"{difference:.2e}"] for name, difference in found_differences.items()]))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flax_augtl.pretrained", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "checkpoint", help="a file, a folder, an address, or owner/repository[@revision] on the Hugging Face Hub"
    )
    parser.add_argument("--model", help="the network; by default the one that the checkpoint fits")
    parser.add_argument("--sha256", help="the SHA-256 that the file must have")
    parser.add_argument("--entry", help="which network of a file with several, such as state_dict")
    parser.add_argument("--images", help="an image, or a folder of them: print the five likeliest classes")
    parser.add_argument("--verify", action="store_true", help="compare every block with the original implementation")
    options = parser.parse_args(arguments)
    try:
        found, source = _open(options.checkpoint, options.model, options.sha256, options.entry)
        print(columns([[key, on_one_line(str(value))] for key, value in _summary(found, source)]))
        for note in source.notes:
            print(on_one_line(note))
        if options.images and not source.class_names:
            raise UserError(f"{found.file} has no classification layer: it cannot classify images.")
        if options.images:
            print()
            if unreadable := _show_predictions(source, options.images):
                raise UserError(
                    f"{len(unreadable)} image{'s' * (len(unreadable) != 1)} could not be read:\n  "
                    + "\n  ".join(unreadable)
                )
        if options.verify and not found.tensors:
            raise UserError(f"{found.file} is a run of this program: there is no original to compare it with.")
        if options.verify:
            _show_verification(found, source)
    except ValueError as error:
        print(for_terminal(f"error: {error}"), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
