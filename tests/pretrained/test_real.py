"""Real ImageNet weights on real photographs."""

import runpy

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from flax_augtl.pretrained import load_source

ANT, BEE = 310, 309


@pytest.mark.slow
def test_the_kept_layer_alone_tells_ants_from_bees(real_folder, tmp_path):
    unpack = runpy.run_path(str(real_folder / "unpack.py"))["unpack"]
    save_file(unpack(real_folder / "resnet18.imagenet.npz"), tmp_path / "w.safetensors")
    source = load_source(None, tmp_path / "w.safetensors")
    assert (source.name, source.class_names[ANT], source.class_names[BEE]) == ("resnet18", "ant", "bee")
    files, is_ant = [], []
    for folder, ant in (("ants", True), ("bees", False)):
        found = sorted((real_folder / "hymenoptera" / "val" / folder).glob("*.jp*g"))
        files += found
        is_ant += [ant] * len(found)
    images = [source.preprocess.resize_and_crop(Image.open(file).convert("RGB")) for file in files]
    run = jax.jit(lambda variables, x: source.model.apply(variables, source.preprocess.normalise(x)))
    size = 51
    assert len(files) % size == 0, "one compiled batch size is enough"
    batches = [np.stack(images[i : i + size]) for i in range(0, len(files), size)]
    logits = np.concatenate([run(source.variables, batch) for batch in batches])
    right = (logits[:, ANT] > logits[:, BEE]) == np.array(is_ant)
    assert len(right) == 153 and right.mean() > 0.94, f"{right.sum()} of {len(right)}"
    # They are also the most frequent of all 1000 classes, so that the names are not off by one.
    counts = np.bincount(logits.argmax(-1), minlength=1000)
    assert set(np.argsort(-counts)[:2]) == {ANT, BEE}
