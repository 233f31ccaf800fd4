"""Size and speed of exported networks: `python -m flax_augtl.benchmarks.exported --networks=resnet18,resnet50,vgg16`.

Prints a table row for each network: the size of its ONNX file, and the time for 1 and for 32 images in JAX (the
function that `Run.predict` compiles) and in onnxruntime, on the CPU. A time is the least of several; behind it is the
CPU time of all threads in a call, which is the same whatever other programs do.
"""

import argparse
import time
from collections.abc import Callable

import jax
import numpy as np

from flax_augtl.config.heads import PRESETS
from flax_augtl.export import ExportSettings
from flax_augtl.export.forward import stored
from flax_augtl.export.onnx_model import onnx_model
from flax_augtl.models.augmented import create_network, initial_variables
from flax_augtl.models.registry import MODELS
from flax_augtl.pretrained import Preprocessing
from flax_augtl.training.compiled_steps import compiled_predict_step


def measured(call: Callable[[], object], seconds: float) -> str:
    """Return the least wall time of a call, and its least CPU time, in milliseconds."""
    call()
    wall, cpu, end = [], [], time.perf_counter() + seconds
    while len(wall) < 3 or time.perf_counter() < end:
        begin = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - begin[0])
        cpu.append(time.process_time() - begin[1])
    return f"{1000 * min(wall):.0f} ({1000 * min(cpu):.0f})"


def row(name: str, weights: str, threads: int, seconds: float) -> str:
    """Return the row of one network, with random weights and ten classes."""
    import onnxruntime

    preprocessing = Preprocessing(image_size=MODELS[name].image_size)
    network = create_network(name, PRESETS["traditional"], num_classes=10)
    variables = initial_variables(network, 0, preprocessing.image_size)
    content = onnx_model(network, stored(variables, weights), preprocessing, ExportSettings("onnx", weights=weights))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait would count as busy.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    step, placed = compiled_predict_step(network, preprocessing), jax.device_put(variables)
    cells = [name, weights, f"{len(content) / 1e6:.0f}"]
    for count in (1, 32):
        size = preprocessing.image_size
        pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
        cells.append(measured(lambda pixels=pixels: step(placed, pixels).block_until_ready(), seconds))
        cells.append(measured(lambda pixels=pixels: session.run(None, {"images": pixels}), seconds))
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Size and speed of exported networks.")
    parser.add_argument("--networks", default="resnet18,resnet50,vgg16")
    parser.add_argument("--weights", default="float32", help="float32, bfloat16 or float16, with commas")
    parser.add_argument("--threads", type=int, default=2, help="of onnxruntime")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    given = parser.parse_args()
    print("| network | weights | ONNX file, MB | JAX, 1 image, ms | onnxruntime | JAX, 32 images, ms | onnxruntime |")
    print("|---|---|---|---|---|---|---|")
    for name in given.networks.split(","):
        for weights in given.weights.split(","):
            print(row(name, weights, given.threads, given.seconds), flush=True)


if __name__ == "__main__":
    main()
