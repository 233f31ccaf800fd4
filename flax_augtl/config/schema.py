"""The schema of the configuration: every field once, with its type, default, range or choices, and comment."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax_augtl.config.data_config import DataConfig
from flax_augtl.config.features_config import FeaturesConfig
from flax_augtl.config.field import SAME, Field, fields_of, section, setting
from flax_augtl.config.methods import METHODS, PLAIN
from flax_augtl.config.optimizers import OPTIMIZERS, Optimizer
from flax_augtl.config.schedules import SCHEDULES, Schedule
from flax_augtl.config.study_config import StudyConfig

COMPUTE_DTYPES = ("float32", "bfloat16")
CALIBRATE = ("temperature", "none")
ON_NAN = ("stop", "skip", "restore")


def _readers(table: Mapping[str, Schedule] | Mapping[str, Optimizer], field: str) -> str:
    """Return the choices of a table that read a field, for its comment."""
    return "Of " + " and ".join(name for name, row in table.items() if field in row.uses)


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """What `config.head` holds: a preset (docs/configuration.md has them), and settings that take the place of its own."""

    preset: str = setting("kept_deeper", "Name of a head; the other fields override its settings.")
    keep_classifier: bool | None = setting(None, "Keep the pretrained classification layer.")
    new_layers: tuple[int, ...] | None = setting(
        None, "Widths of new layers, such as (), (1024,), (2048, 1024): depth augmentation."
    )
    widen: int | None = setting(
        None,
        "Number of units beside the topmost layer that is kept of the source network: width augmentation.",
        least=0,
    )
    norm: str | None = setting(None, "At the input of every new layer: none, l2, batch, layer, power.")
    scale: float | None = setting(None, "Initial gamma of the norms l2 and power.", above=0)
    classifier_init: str | None = setting(
        None, "Weights of the kept classification layer: pretrained or, as controls, random, shuffled."
    )
    classifier_rate: str | None = setting(
        None, "The kept classification layer learns at the rate of the pretrained or of the new layers."
    )
    classifier_init_from: str | None = setting(
        None,
        "The target classifier starts from zero or, where it reads the kept layer, from LEEP's predictor: leep.",
    )
    dropout: float | None = setting(
        None, "Probability with which an activation between new layers is dropped.", least=0, below=1
    )
    fit: str | None = setting(
        None,
        "The target classifier is fitted by gradient (descent), or in closed form on frozen features: lda, ridge, "
        "class_means; these need config.freeze=all.",
        absent=SAME,
    )
    strength: float | None = setting(
        None,
        "Of fit=lda: the shrinkage, from 0 to 1; of fit=ridge: the penalty, divided by the mean variance of a feature; "
        "None = chosen from the training data.",
        least=0,
        absent=SAME,
    )


@dataclasses.dataclass(frozen=True)
class MethodConfig:
    """What `config.method` holds: a preset, and numbers that take the place of its own; they can be combined."""

    preset: str = setting(
        PLAIN,
        f"How pretrained layers are fine-tuned: {', '.join(METHODS)}; the other fields override its numbers.",
        absent=SAME,
    )
    layer_decay: float | None = setting(
        None,
        "The learning rate of a pretrained layer group is that of the one above it times this; 1 = the same rate.",
        above=0,
        most=1,
        absent=SAME,
    )
    trains: str | None = setting(
        None,
        "Which parameters of the trainable pretrained layers are trained: all, norm (those of batch norm), bias.",
        absent=SAME,
    )
    l2_sp: float | None = setting(
        None,
        "Strength of the pull of pretrained kernels to their initial values, in place of their weight decay; 0 = none.",
        least=0,
        absent=SAME,
    )
    bss: float | None = setting(
        None,
        "Strength of the penalty of the smallest squared singular values of a batch's penultimate features; 0 = none.",
        least=0,
        absent=SAME,
    )
    bss_values: int | None = setting(
        None, "How many singular values config.method.bss penalises.", least=1, absent=SAME
    )
    contrast: float | None = setting(
        None,
        "Strength of the supervised contrastive loss of a batch's penultimate features; 0 = none.",
        least=0,
        absent=SAME,
    )
    contrast_temperature: float | None = setting(
        None, "The cosines of config.method.contrast are divided by it.", above=0, absent=SAME
    )
    relative_gradient: float | None = setting(
        None,
        "The rate of each pretrained tensor is proportional to this power of ‖gradient‖ / ‖weight‖; 0 = the same rate.",
        least=0,
        absent=SAME,
    )
    stoch_norm: float | None = setting(
        None,
        "Probability with which a channel of a trainable batch norm takes its running statistics in training.",
        least=0,
        most=1,
        absent=SAME,
    )


@dataclasses.dataclass(frozen=True)
class PreprocessingConfig:
    """What `config.preprocessing` holds; None = as the weights bring it along."""

    resize: str | None = setting(
        None,
        "Before the crop: short_side (keeps the shape), squash (to a square, whatever the shape), none.",
        absent=SAME,
    )
    crop_fraction: float | None = setting(
        None, "Side of the crop as a share of the short side of the resized image, in (0, 1]."
    )
    interpolation: str | None = setting(None, "nearest, bilinear, bicubic, lanczos, box, hamming.")
    channel_order: str | None = setting(None, "RGB, BGR.")
    value_range: float | None = setting(None, "Value of the brightest pixel before the mean is subtracted: 1.0, 255.0.")
    mean: tuple[float, ...] | None = setting(None, "Mean of each of the three channels.")
    std: tuple[float, ...] | None = setting(None, "Standard deviation of each of the three channels.")


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """What `config.schedule` holds. Lengths are given in one of three units."""

    name: str = setting("cosine", "How the learning rate changes after the warm-up.", choices=tuple(SCHEDULES))
    warmup_steps: int | None = setting(None, "Linear rise of the learning rate at the start, in steps.")
    warmup_epochs: float | None = setting(None, "The same in epochs.")
    warmup_examples: int | None = setting(None, "The same in examples.")
    final: float = setting(
        0.0,
        f"{_readers(SCHEDULES, 'final')}: the learning rate of the last step as a share of the highest.",
        least=0,
    )
    reaches_final: bool = setting(
        True,
        "The last step has the rate final. Runs that began before this field existed end one step short of it.",
        absent=False,
    )
    boundaries_steps: tuple[float, ...] = setting(
        (),
        f"{_readers(SCHEDULES, 'boundaries_steps')}: where the learning rate is multiplied by factor, in steps.",
    )
    boundaries_epochs: tuple[float, ...] = setting((), "The same in epochs.")
    boundaries_examples: tuple[float, ...] = setting((), "The same in examples.")
    factor: float = setting(
        0.1, f"{_readers(SCHEDULES, 'factor')}: what the learning rate is multiplied by at every boundary.", least=0
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """The whole configuration."""

    name: str = setting("common", "Name of the experiment, in result.json.")
    seed: int = setting(
        0,
        "Seed of the validation split, the shots, the initial new layers and the order of the examples; not of the test "
        "split.",
    )
    network: str = setting("resnet18", "Source network: a name from docs/weights.md.")
    weights: str | None = setting(
        None,
        "Pretrained weights: a file, a folder, an address (https://…), an id on the Hugging Face Hub such as "
        "timm/resnet18.tv_in1k; None = random weights.",
    )
    weights_entry: str | None = setting(
        None,
        "Which network of a file that holds several, such as state_dict; raw = not an average; None = the average, if "
        "there is one.",
        absent="raw",
    )
    weights_sha256: str | None = setting(
        None, "Expected SHA-256 of the weights file, 64 hexadecimal digits; None = not checked."
    )
    head: HeadConfig = section(HeadConfig, "What is stacked on the source network.")
    method: MethodConfig = section(MethodConfig, "How pretrained layers are fine-tuned.")
    freeze: str = setting(
        "none",
        "The topmost frozen layer group (stem, layer1, …, fc; conv1, …, fc8) or residual block (layer3.0), or none, or "
        "all (all but the head). The frozen layers are this one and all below it.",
    )
    data: DataConfig = section(DataConfig, "Which images, how they are split, and how they get to the devices.")
    features: FeaturesConfig = section(
        FeaturesConfig, "Whether the outputs of frozen layers are kept, so that they are computed only once."
    )
    image_size: int | None = setting(
        None, "Side of the images in pixels; None = what the weights were trained with.", least=1
    )
    preprocessing: PreprocessingConfig = section(
        PreprocessingConfig, "What is done to images before the network, where it differs from what the weights say."
    )
    batch_size: int = setting(64, "Images in a step, over all devices.", least=1)
    accumulate: int = setting(
        1, "Micro-batches into which a device's share of the batch is split, to save memory.", least=1
    )
    steps: int | None = setting(None, "Length of the run in steps; give one of steps, epochs, examples.")
    epochs: float | None = setting(None, "Length of the run in epochs.")
    examples: int | None = setting(None, "Length of the run in examples.")
    learning_rate: float = setting(0.003, "Highest learning rate of pretrained layers.", least=0)
    new_layer_multiplier: float = setting(
        10.0, "Learning rate of new layers divided by that of pretrained ones.", least=0
    )
    optimizer: str = setting(
        "sgd",
        ", ".join(f"{name} ({row.comment})" if row.comment else name for name, row in OPTIMIZERS.items()) + ".",
        choices=tuple(OPTIMIZERS),
    )
    momentum: float = setting(0.9, f"{_readers(OPTIMIZERS, 'momentum')}.", least=0, below=1)
    weight_decay: float = setting(5e-4, "Of kernels; biases, norms and scales have none.", least=0)
    gradient_clip: float = setting(0.0, "Largest norm of the gradient; 0 = no limit.", least=0)
    label_smoothing: float = setting(
        0.0, "Share of the probability that is spread evenly over all classes.", least=0, below=1
    )
    class_weights: tuple[float, ...] | None = setting(
        None, "Weight of each class in the loss, in the order of the class names; None = equal weights."
    )
    balance_classes: bool = setting(
        False, "Weight the classes so that each counts the same in the loss, however many examples it has."
    )
    schedule: ScheduleConfig = section(ScheduleConfig, "How the learning rate changes during training.")
    evaluate_every_steps: int | None = setting(
        None,
        "Steps between two evaluations on the validation split, each with a checkpoint; give one of three units; none = "
        "at the end of every epoch.",
    )
    evaluate_every_epochs: float | None = setting(None, "The same in epochs.")
    evaluate_every_examples: int | None = setting(None, "The same in examples.")
    checkpoint_every_steps: int | None = setting(
        None, "Steps between further checkpoints; give one of three units; none = no further ones."
    )
    checkpoint_every_epochs: float | None = setting(None, "The same in epochs.")
    checkpoint_every_examples: int | None = setting(None, "The same in examples.")
    keep_checkpoints: int = setting(2, "Newest checkpoints to keep, besides the best one; at least 2.", least=1)
    early_stopping: int = setting(0, "Stop after so many evaluations without a better one; 0 = never.", least=0)
    on_nan: str = setting(
        "stop",
        "If a loss or gradient is not finite: stop; skip (leave the update out); restore (go back to the last checkpoint, "
        "and on with the data after that batch).",
        choices=ON_NAN,
    )
    on_nan_limit: int = setting(10, "Of skip and restore: how often, before the run stops after all.", least=0)
    log_every_steps: int = setting(10, "Steps between two rows of the training loss in metrics.jsonl.", least=1)
    compute_dtype: str = setting(
        "float32", "float32, bfloat16; parameters are float32 in any case.", choices=COMPUTE_DTYPES
    )
    deterministic: bool = setting(
        False,
        "On a GPU use only kernels that give the same bits every time, at the cost of speed; CPUs and TPUs always do.",
        absent=SAME,
    )
    calibrate: str = setting(
        "temperature",
        "After the training: temperature (fit one number to the validation predictions, by which the logits are divided, "
        "so that probabilities agree with how often the network is right; needs a validation split), none.",
        choices=CALIBRATE,
        absent="none",
    )
    familiarity: bool = setting(
        True,
        "After the training, fit how familiar an image looks to the network, so that --mode=predict can mark images of "
        "none of the classes; needs a validation split.",
        absent=False,
    )
    report: bool = setting(True, "Write report.html after the training and after --mode=evaluate.", absent=SAME)
    remat: bool = setting(
        False,
        "Compute activations a second time for the backward pass instead of keeping them: less memory, more time.",
    )
    check_replicas_every: int = setting(
        0,
        "Steps between two checks that the state is the same on every device of every host, for debugging; 0 = never.",
        least=0,
    )
    variants: Mapping[str, Any] = setting(
        {},
        "{name: {field: value, …}, …}: train once for each, in WORKDIR/name, and print their results side by side.",
    )
    study: StudyConfig = section(StudyConfig, "What --mode=study compares.")


FIELDS: Mapping[str, Field] = {field.name: field for field in fields_of(Config)}
# The type of each in words, as `value_types.check` takes them.
KINDS: Mapping[str, str] = {name: field.kind for name, field in FIELDS.items()}
# Above it numbers no longer fit the integers of arrays; seeds may be larger.
LARGEST = 2**31 - 1
