"""The model card of an export: README.md with the header that the Hugging Face Hub reads."""

from typing import Any

from etils import epath

from flax_augtl.export import card_command
from flax_augtl.export.check import Checked
from flax_augtl.export.settings import ExportError, ExportSettings
from flax_augtl.export.sheet import described, sheet
from flax_augtl.run import Run
from flax_augtl.runtime.text import on_one_line
from flax_augtl.trust import calibration
from flax_augtl.workdir import files

NAME = "README.md"
# By this line the program knows a card of its own, which it may write again.
_OURS = "<!-- Written by flax_augtl --mode=export; the next export writes it again. -->"
_FEW = 10
_SHOWN = 30
# What the Hub knows of the licences that source weights have; others are "other", with their name.
_LICENCES = frozenset(
    "apache-2.0 mit bsd-2-clause bsd-3-clause cc-by-4.0 cc-by-sa-4.0 cc-by-nc-4.0 cc-by-nc-sa-4.0 cc0-1.0 "
    "openrail gpl-3.0 lgpl-3.0 mpl-2.0 unlicense".split()
)


def check_place(workdir: epath.Path) -> None:
    """Raise ExportError if the run directory has a README.md that this program did not write."""
    files.check_links(workdir, (NAME,))
    path = workdir / NAME
    if path.exists() and _OURS.encode() not in path.read_bytes():
        raise ExportError(
            f"{path} was not written by --mode=export, and the model card would take its place. Rename it."
        )


def model_card(run: Run, settings: ExportSettings, checked: Checked | None, hub: str | None = None) -> str:
    """Return the text of the card.

    Args:
      run: that is exported.
      settings: of the export.
      checked: what the check before it found, None without one.
      hub: "USER/NAME", if it is uploaded.
    """
    parts = [
        _title(run),
        _task(run),
        _files(run, settings, checked, hub),
        _data(run),
        _metrics(run),
        _preprocessing(run),
        _calibration(run),
        _limits(run),
        _origin(run),
        card_command.commands(run, settings, hub),
    ]
    return f"---\n{_header(run)}\n---\n{_OURS}\n\n" + "\n\n".join(parts) + "\n"


def _header(run: Run) -> str:
    from huggingface_hub import EvalResult, ModelCardData  # Slow to import.

    terms, test = described(run)["terms"], (run.result or {}).get("test") or {}
    licence = terms.get("licence", "").lower()
    fields: dict[str, Any] = (
        {"license": licence}
        if licence in _LICENCES
        else {"license": "other", "license_name": on_one_line(terms.get("licence_name") or licence or "unknown")}
    )
    if link := terms.get("licence_link"):
        fields["license_link"] = link
    if (origin := terms.get("origin", "")).startswith("https://huggingface.co/"):
        fields["base_model"] = origin.removeprefix("https://huggingface.co/")
    data, results = _dataset(run), []
    for metric, name in (("top1", "Accuracy"), ("mean_per_class", "Mean accuracy per class")):
        if test.get(metric) is not None:
            results.append(
                EvalResult(
                    task_type="image-classification",
                    dataset_name=data,
                    dataset_type=data,
                    dataset_split="test",
                    metric_type="accuracy" if metric == "top1" else metric,
                    metric_name=name,
                    metric_value=round(test[metric], 6),
                )
            )
    return (
        ModelCardData(
            library_name="flax_augtl",
            pipeline_tag="image-classification",
            tags=["image-classification", "jax", "transfer-learning", run.config.network],
            model_name=run.workdir.name if results else None,
            eval_results=results or None,
            **fields,
        )
        .to_yaml()
        .strip()
    )


def _dataset(run: Run) -> str:
    """Return the name of the data, without the path to them."""
    data = run.config.data
    return epath.Path(data.root).name if data.name in ("folder", "list") and data.root else str(data.name)


def _cell(text: Any) -> str:
    """Return a text that is safe in a Markdown table: names of classes and files come from others."""
    for old, new in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("`", "'")):
        text = str(text).replace(old, new)
    return on_one_line(text)


def _table(header: list[str], rows: list[list[Any]]) -> str:
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in (header, ["---"] * len(header), *rows))


def _title(run: Run) -> str:
    what = f"{_cell(run.config.network)} fine-tuned on {_cell(_dataset(run))} with flax_augtl."
    return f"# {_cell(run.workdir.name)}\n\n{what}"


def _task(run: Run) -> str:
    head = run.network.head.settings
    kept = "with the pretrained classification layer kept" if head.keep_classifier else "on the penultimate features"
    shown = ", ".join(map(_cell, run.class_names[:_SHOWN]))
    more = (
        f", and {len(run.class_names) - _SHOWN} more (in the JSON beside the weights)"
        if len(run.class_names) > _SHOWN
        else ""
    )
    return (
        f"## Task\n\nImage classification: one of {len(run.class_names)} classes for each image. Head: "
        f"`{run.config.head.preset}`, {kept}. Frozen up to: `{run.config.freeze}`.\n\nClasses: {shown}{more}."
    )


def _files(run: Run, settings: ExportSettings, checked: Checked | None, hub: str | None) -> str:
    rows = (
        [["`predict_onnx.py`", "predicts a folder with numpy, Pillow and onnxruntime: python predict_onnx.py FOLDER"]]
        if (settings.format == "onnx")
        else []
    )
    takes = f"{settings.input} images [N, S, S, 3] to {', '.join(settings.outputs)}"
    name = {"onnx": "export.onnx", "stablehlo": "export.stablehlo"}.get(settings.format)
    rows = [[name, takes], *rows] if name else rows
    if hub or not name:
        rows.append(["model.safetensors" if hub else "export.safetensors", "the weights, in torchvision's names"])
    text = "## Files\n\n" + _table(["file", "what it is"], rows) + f"\n\nWeights are stored as {settings.weights}."
    if settings.format == "stablehlo":
        from flax_augtl.export.stablehlo import WINDOW

        text += f" {WINDOW}"
    if checked is None:
        return text
    differences = ", ".join(f"{output} {value:.1e}" for output, value in checked.differences.items())
    text += (
        f"\n\nChecked against the run on {checked.images} before it was written; largest differences: {differences}."
    )
    if settings.weights != "float32":
        text += f"\n\nEffect of {settings.weights} weights: {checked.accuracy_change()}"
    if run.config.compute_dtype != "float32":
        text += f"\n\nThe run itself computes in {run.config.compute_dtype}, the export in float32."
    return text


def _data(run: Run) -> str:
    path = run.workdir / files.SPLITS
    splits = files.read_json(path) if path.exists() else {}
    counts = [
        [name, len(splits[key])]
        for key, name in (("train", "training"), ("val", "validation"), ("test", "test"))
        if isinstance(splits.get(key), list)
    ]
    return f"## Data\n\n{_cell(_dataset(run))}\n\n{_table(['split', 'images'], counts)}"


def _metrics(run: Run) -> str:
    result, rows = run.result or {}, []
    for split in ("test", "val"):
        for metric, value in (result.get(split) or {}).items():
            if isinstance(value, (int, float)) and metric != "n":
                ends = ((result.get("intervals") or {}).get(split) or {}).get(metric)
                rows.append([split, metric, f"{value:.4f}", f"{ends[0]:.4f} to {ends[1]:.4f}" if ends else ""])
    if not rows:
        return "## Metrics\n\nThe run is not finished; nothing was measured."
    sizes = ", ".join(f"{result[split]['n']} {split} images" for split in ("test", "val") if result.get(split))
    return (
        f"## Metrics\n\n{_table(['split', 'metric', 'value', '95 % interval over images'], rows)}\n\nOf step "
        f"{result['best_step']}, on {sizes}. The intervals are bootstrapped over images, for this one training."
        + ("" if run.step == result["best_step"] else f" The exported weights are those of step {run.step}.")
    )


def _preprocessing(run: Run) -> str:
    steps = sheet(run, ExportSettings("onnx", "float"), None)["input"]["steps"]
    return "## Preprocessing\n\n" + "\n".join(f"{number}. {_cell(step)}" for number, step in enumerate(steps, start=1))


def _calibration(run: Run) -> str:
    found, test = calibration.read(run.workdir), (run.result or {}).get("test") or {}
    measured = {
        name: f"{test[name]:.4f}"
        for name in ("loss", "loss_calibrated", "calibration_error", "calibration_error_calibrated")
        if isinstance(test.get(name), float)
    }
    if run.temperature is None:
        text = "Not calibrated: the probabilities are the softmax of the logits as they are."
        if found is not None and found.temperature is None:
            text += f" {_cell(found.note)}"
        if error := measured.get("calibration_error"):
            text += f" Expected calibration error on the test images: {error}."
        return f"## Calibration\n\n{text}"
    text = (
        f"Logits are divided by the temperature {run.temperature:.4g} before the softmax. An export has this in its "
        f"probabilities, and not in its logits. {_cell(found.note) if found else ''}"
    ).rstrip()
    if "loss_calibrated" in measured:
        rows = [
            [name, measured[key], measured[f"{key}_calibrated"]]
            for name, key in (("log-loss", "loss"), ("expected calibration error", "calibration_error"))
            if f"{key}_calibrated" in measured and key in measured
        ]
        text += "\n\n" + _table(["on the test images", "before", "after"], rows)
    return f"## Calibration\n\n{text}"


def _limits(run: Run) -> str:
    lines = [
        f"Images of other origin than {_cell(_dataset(run))}: other cameras, places, times or ways to choose images.",
        f"Images of none of these {len(run.class_names)} classes: the network always answers with one of them.",
        "Damaged, altered or adversarial images.",
        "Groups of people or of subjects: no accuracy by group was measured.",
    ]
    result = run.result or {}
    few = [f"{_cell(row['label'])} ({row['n']})" for row in result.get("classes") or () if row["n"] < _FEW]
    if few:
        lines.append(
            f"{len(few)} classes have fewer than {_FEW} test images: {', '.join(few[:_SHOWN])}"
            f"{', …' * (len(few) > _SHOWN)}."
        )
    if result and not result.get("val"):
        lines.append("There was no validation split: the weights are those of the last step.")
    return "## What it was not tested on\n\n" + "\n".join(f"- {line}" for line in lines)


def _origin(run: Run) -> str:
    terms = described(run)["terms"]
    rows = [[name, value] for name, value in terms.items()]
    text = (
        "The licence of the source weights holds for what was made from them as well; its text decides."
        if "licence" in terms
        else "The licence of the source weights is not known to this program: find it out before you pass this on."
    )
    return f"## Licence and origin of the source weights\n\n{_table(['', 'source weights'], rows)}\n\n{text}"
