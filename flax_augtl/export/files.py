"""Exports a run: makes the program, checks it, and only then puts its files in place."""

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import numpy as np
from etils import epath

from flax_augtl.data import Dataset
from flax_augtl.export import model_card, push
from flax_augtl.export.check import Program, check, everything_of, of_one_size
from flax_augtl.export.check_images import check_images
from flax_augtl.export.forward import forward, stored
from flax_augtl.export.settings import ExportError, ExportSettings
from flax_augtl.export.sheet import described, familiarity_of, sheet, temperature_of
from flax_augtl.run import Run
from flax_augtl.workdir import files as run_directory

WEIGHTS = "export.safetensors"
PREDICT = "predict_onnx.py"
_PROGRAMS = {"onnx": "export.onnx", "stablehlo": "export.stablehlo"}
_SHEETS = {"safetensors": "export.json", "onnx": "export_onnx.json", "stablehlo": "export_stablehlo.json"}


def export(
    run: Run,
    format: str = "safetensors",
    *,
    input: str = "uint8",
    outputs: str | Sequence[str] = ("probabilities",),
    weights: str = "float32",
    push_to_hub: str | None = None,
    dataset: Dataset | None = None,
    data_root: Any = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[epath.Path]:
    """Write files for other programs into the run directory, and return their paths; the model card is README.md.

    Args:
      run: what to export.
      format: `safetensors`, `onnx` or `stablehlo`.
      input: see `ExportSettings`.
      outputs: see `ExportSettings`; names, or one text with commas.
      weights: see `ExportSettings`.
      push_to_hub: "USER/NAME": upload the files, and the weights as safetensors with them, to the Hugging Face Hub.
      dataset: the one that `train` was given, if it was given one: the export is checked on its validation images.
      data_root: where the data of the run are now, if they have moved.
      say: is told what the user should know.

    Raises:
      ValueError: the run cannot be exported so, or the check fails; nothing has been written then.
    """
    settings = ExportSettings(format, input, cast(Any, outputs), weights)
    model_card.check_place(run.workdir)
    target = push.check_target(push_to_hub) if push_to_hub else None
    try:
        variables = stored(run.variables, settings.weights)
    except OverflowError as error:
        raise ExportError(
            f"--weights={settings.weights} cannot hold the weights of {run.workdir}: {error} is too large. "
            "bfloat16 has the range of float32."
        ) from error
    program, content = _program(run, settings, variables)
    checked = None
    if format != "safetensors" or weights != "float32":
        images = check_images(run, every=weights != "float32", dataset=dataset, data_root=data_root)
        if images.note:
            say(f"warning: {images.note}")
        checked = check(
            run,
            variables,
            settings,
            program,
            images,
            temperature=temperature_of(run),
            familiarity=familiarity_of(run, settings),
        )
        if weights != "float32":
            say(f"{weights} weights: {checked.accuracy_change()}")
    written = _write(run, settings, content, checked)
    card = run.workdir / model_card.NAME
    run_directory.write_text(card, model_card.model_card(run, settings, checked, push_to_hub))
    say(f"The model card is {card}")
    if target:
        # The weights go with every program: `config.weights` reads them from there.
        files = (
            written
            if format == "safetensors"
            else [*_write(run, ExportSettings(weights=weights), b"", checked), *written]
        )
        say(f"Uploaded to {push.upload(target, run, [card, *files])}")
    return written


def _program(run: Run, settings: ExportSettings, variables: Any) -> tuple[Program, bytes]:
    """Return an exported program, ready to run, and the bytes of its file."""
    if settings.format == "onnx":
        return _onnx(run, settings, variables)
    if settings.format == "stablehlo":
        from jax import export as jax_export

        from flax_augtl.export.stablehlo import stablehlo_program

        content = stablehlo_program(
            run.network, variables, run.preprocessing, settings, temperature_of(run), familiarity_of(run, settings)
        )
        return of_one_size(jax.jit(jax_export.deserialize(bytearray(content)).call)), content
    everything = ExportSettings("onnx", outputs=everything_of(settings))
    function = jax.jit(forward(run.network, run.preprocessing, everything, temperature_of(run)))
    return of_one_size(functools.partial(function, variables)), b""


def _onnx(run: Run, settings: ExportSettings, variables: Any) -> tuple[Program, bytes]:
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        raise ExportError(
            '--format=onnx needs onnx, to write the file, and onnxruntime, to check it: pip install "flax_augtl[onnx]".'
        ) from error
    from flax_augtl.export.onnx_model import onnx_model

    about = {
        "class_names": json.dumps(list(run.class_names), ensure_ascii=False),
        "network": described(run)["network"],
        "preprocessing": json.dumps(run.preprocessing.to_json()),
        "calibration": str(sheet(run, settings, None)["calibration"]),
    }
    content = onnx_model(
        run.network,
        variables,
        run.preprocessing,
        settings,
        temperature=temperature_of(run),
        familiarity=familiarity_of(run, settings),
        about=about,
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names, image = [output.name for output in session.get_outputs()], session.get_inputs()[0].name

    def program(images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, map(np.asarray, session.run(names, {image: images})), strict=True))

    return program, content


def _write(run: Run, settings: ExportSettings, content: bytes, checked: Any) -> list[epath.Path]:
    """Write the files of one format, and return their paths."""
    from flax_augtl.export.safetensors import write_weights

    workdir, described_file = run.workdir, run.workdir / _SHEETS[settings.format]
    main = workdir / _PROGRAMS.get(settings.format, WEIGHTS)
    if settings.format == "safetensors":
        write_weights(run, main, settings)
    else:
        run_directory.write_bytes(main, content)
    run_directory.write_json(described_file, sheet(run, settings, checked))
    written = [main, described_file]
    if settings.format == "onnx":
        script = workdir / PREDICT
        run_directory.write_bytes(script, epath.Path(__file__).with_name(PREDICT).read_bytes())
        written.append(script)
    return written
