"""Everything that training needs, built from a configuration; its errors are found before anything is written."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from flax_augtl.config.durations import in_steps
from flax_augtl.config.heads import HeadSettings, head_settings
from flax_augtl.config.methods import MethodSettings, check_pretrained, method_settings
from flax_augtl.config.schema import Config
from flax_augtl.data import Dataset, Examples, check_there, eval_batches, load_dataset, with_cache
from flax_augtl.data.images.augment import augmentations
from flax_augtl.data.images.transforms import training_path
from flax_augtl.data.loading.device_dataset import Pool, make_pool
from flax_augtl.data.sources.unicode_names import Spelling
from flax_augtl.errors import UserError
from flax_augtl.features.plan import FeaturePlan, Lengths, plan_features
from flax_augtl.models import augmented as network
from flax_augtl.models import leep
from flax_augtl.models.blocks import by_block
from flax_augtl.pretrained import Preprocessing, Source, load_source
from flax_augtl.training import freezing
from flax_augtl.training.balance import class_weights
from flax_augtl.training.kept_features import KeptSplit, RunFeatures
from flax_augtl.training.methods import places_of
from flax_augtl.training.optimizer import OptimizerSettings, optimizer_of, schedule_of
from flax_augtl.training.step import AXIS, StepSettings
from flax_augtl.training.step_inputs import DeviceImages, Images, KeptFeatures, StepInputs


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that a run needs.

    Attributes:
      config: the configuration.
      dataset: the images and their splits.
      source: the contents of source.json: the source network's name, settings, classes and terms.
      network: the network that is trained.
      variables: its initial variables.
      plan: what is frozen.
      preprocessing: the evaluation transform, from images to the network's input.
      optimizer: settings of the optimizer.
      step: settings of the compiled step.
      pool: the training images if they live on the device, otherwise None.
      rates: the learning rate of pretrained layers at every step, float32 [total steps].
      evaluate_every: steps between two evaluations.
      checkpoint_every: steps between two further checkpoints, or None.
      features: what is kept of the frozen layers.
      kept: the kept features, once they have been made.
    """

    config: Config
    dataset: Dataset
    source: Mapping[str, Any]
    network: network.AugmentedNetwork
    variables: Mapping[str, Any]
    plan: freezing.FreezingPlan
    preprocessing: Preprocessing
    optimizer: OptimizerSettings
    step: StepSettings
    pool: Pool | None
    rates: np.ndarray
    evaluate_every: int
    checkpoint_every: int | None
    features: FeaturePlan = FeaturePlan()
    kept: RunFeatures | None = None

    def kept_split(self, split: str) -> KeptSplit | None:
        """Return the kept features of a split, if there are any."""
        return None if self.kept is None else self.kept.splits.get(split)

    @property
    def total_steps(self) -> int:
        """The length of the run in steps."""
        return len(self.rates)


def head_of(config: Config) -> HeadSettings:
    """Return the settings of the head that `config.head` asks for."""
    values = dataclasses.asdict(config.head)
    return head_settings(values.pop("preset"), values)


def method_of(config: Config) -> MethodSettings:
    """Return the settings of the method that `config.method` asks for."""
    values = dataclasses.asdict(config.method)
    return method_settings(values.pop("preset"), values)


def variant_of(model: nn.Module) -> dict[str, Any]:
    """Return the fields that define a source network, without its classes and how it is computed."""
    common = {"parent", "name", "num_classes", "dtype", "axis_name", "remat"}
    return {field.name: getattr(model, field.name) for field in dataclasses.fields(model) if field.name not in common}


def build_network(source: Mapping[str, Any], config: Config, num_classes: int) -> network.AugmentedNetwork:
    """Return the network of a run.

    Args:
      source: the contents of source.json.
      config: the run's configuration.
      num_classes: number of target classes.

    Raises:
      UserError: the source or the configuration has a setting that does not exist.
    """
    return network.create_network(
        source["network"],
        head_of(config),
        num_classes=num_classes,
        source_classes=source["num_classes"],
        variant=hashable(source["settings"]),
        dtype=config.compute_dtype,
        axis_name=AXIS,
        remat=config.remat,
    )


def hashable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with tuples instead of lists: Flax modules must be hashable."""

    def tuples(value: Any) -> Any:
        return tuple(tuples(item) for item in value) if isinstance(value, (list, tuple)) else value

    return {name: tuples(value) for name, value in settings.items()}


def prepare(
    config: Config,
    dataset: Dataset | None = None,
    spelling: Spelling | None = None,
    *,
    keep_features: bool = False,
    decided: str | None = None,
    folder: str | None = None,
) -> Experiment:
    """Load the data and the weights, and build everything else.

    Args:
      config: see configs/common.py.
      dataset: replaces the dataset that `config.data` names; see `data.dataset_from_arrays`.
      spelling: how a run that is resumed writes the names of classes and examples.
      keep_features: whether features may be kept; `make_features` must then make them before the first step.
      decided: where a run that is resumed keeps features, if it was started with config.features.cache=auto.
      folder: an existing folder on the disk of the run; None if that is not a local one.

    Raises:
      UserError: the configuration, the data or the weights are wrong; nothing has been written.
    """
    settings = head_of(config)
    method = method_of(config)
    check_pretrained(method, pretrained=config.weights is not None)
    check_mixed(method, config)
    check_batch(config)
    if dataset is None:
        check_there(config.data)
    # Find errors of the configuration before the data are read, which can take long.
    source, preprocessing, described = source_of(config)
    training_path(config.data, preprocessing, preprocessing.image_size)  # Raises for an unknown crop or policy.
    changes = augmentations(config.data)
    if settings.keep_classifier and not source.model.num_classes:
        raise UserError(
            f"{config.weights} has no classification layer that could be kept: set config.head.preset to one "
            "that replaces it, such as traditional."
        )
    groups = [group for group in source.groups if settings.keep_classifier or group not in network.CLASSIFICATION]
    places = places_of(method)
    plan = freezing.freezing_plan(
        (*groups, network.HEAD),
        config.freeze,
        pretrained=config.weights is not None,
        classifier_rate=settings.classifier_rate,
        subset=places.subset,
    )
    places = places.on(plan)
    optimizer = optimizer_of(config, places)
    check_norms(method, source.variables)
    if settings.closed_form and plan.depth < len(groups):
        raise UserError(
            f"config.head.fit={settings.fit!r} is computed from frozen features, but config.freeze={config.freeze!r} "
            "trains some of the layers below. Set config.freeze='all'."
        )
    dataset = load_dataset(config.data, seed=config.seed, spelling=spelling) if dataset is None else dataset
    built = build_network(described, config, len(dataset.class_names))
    variables = network.initial_variables(
        built, config.seed, preprocessing.image_size, source.variables if config.weights is not None else None
    )
    if settings.classifier_init_from == "leep":
        logits = _source_logits(source, preprocessing, dataset.train, config)
        variables["params"][network.HEAD]["classifier"] = leep.start_classifier(
            settings, logits, dataset.train.labels, len(dataset.class_names)
        )
    # A closed form is one step at no rate.
    rates, every = (np.zeros(1, np.float32), 1) if settings.closed_form else schedule_of(config, len(dataset.train))
    features = FeaturePlan()
    if keep_features:
        lengths = lengths_of(dataset, len(rates), every)
        features = plan_features(config, built, preprocessing, plan.depth, lengths, decided=decided, folder=folder)
    pool = None
    if features.keeps:
        pass  # No image is decoded twice.
    elif config.data.cache == "device":
        pool = make_pool(dataset.train, preprocessing, config.data, image_size=preprocessing.image_size)
        if pool is None:
            raise UserError(
                f"The training images take more than config.data.cache_gb={config.data.cache_gb} gigabytes "
                "on the device: raise it, or set config.data.cache to auto."
            )
    else:
        dataset = with_cache(dataset, preprocessing, config.data, image_size=preprocessing.image_size)
    weights = class_weights(config, dataset.train.labels, len(dataset.class_names))
    step = StepSettings(
        label_smoothing=config.label_smoothing,
        class_weights=weights,
        accumulate=config.accumulate,
        skip_not_finite=config.on_nan == "skip",
        inputs=_inputs(features, pool),
        **changes,
        mixup=config.data.mixup,
        cutmix=config.data.cutmix,
        view_seed=config.data.view_seed,
        losses=places.losses,
        normalisation=places.normalisation,
    )
    return Experiment(
        config,
        dataset,
        described,
        built,
        variables,
        plan,
        preprocessing,
        optimizer,
        step,
        pool,
        rates,
        every,
        in_steps(config, "checkpoint_every", examples=len(dataset.train), batch_size=config.batch_size),
        features,
    )


def lengths_of(dataset: Dataset, steps: int, every: int) -> Lengths:
    """Return how long a run of so many steps is, with an evaluation every so many."""
    examples = {"train": len(dataset.train), "val": len(dataset.val or ()), "test": len(dataset.test)}
    return Lengths(examples, steps, -(-steps // every))


def _inputs(features: FeaturePlan, pool: Pool | None) -> StepInputs:
    if features.keeps:
        return KeptFeatures(features.start)
    return Images() if pool is None else DeviceImages(pool.crop, pool.method)


def source_of(config: Config) -> tuple[Source, Preprocessing, dict[str, Any]]:
    """Return the source network that a configuration names, its preprocessing, and the contents of source.json.

    Raises:
      UserError: the network, its weights or the preprocessing are wrong.
    """
    source = load_source(
        config.network,
        config.weights,
        sha256=config.weights_sha256,
        entry=config.weights_entry,
        preprocessing={"image_size": config.image_size, **dataclasses.asdict(config.preprocessing)},
    )
    if "." in config.freeze or any("." in depth or depth == "blocks" for depth in config.study.depths or ()):
        if not hasattr(source.model, "by_block"):
            raise UserError(
                f"{source.name} has no residual blocks, which config.freeze or config.study.depths asks for."
            )
        source = dataclasses.replace(
            source,
            model=source.model.clone(by_block=True),
            variables={collection: by_block(tree) for collection, tree in source.variables.items()},
        )
    return (
        source,
        source.preprocess,
        {
            "network": source.name,
            "settings": variant_of(source.model),
            "num_classes": source.model.num_classes,
            "class_names": list(source.class_names),
            "weights": config.weights,
            "terms": dict(source.terms),
            "notes": list(source.notes),
        },
    )


def _source_logits(source: Source, preprocessing: Preprocessing, examples: Examples, config: Config) -> np.ndarray:
    """Return the source network's logits for examples in their evaluation view, float32 [n, Z]."""
    apply = jax.jit(lambda variables, images: source.model.apply(variables, preprocessing.normalise(images)))
    batches = eval_batches(
        examples, preprocessing, config.data, batch_size=config.batch_size, image_size=preprocessing.image_size
    )
    return np.concatenate([np.asarray(apply(source.variables, batch["image"])) for batch in batches])[: len(examples)]


def check_norms(method: MethodSettings, variables: Mapping[str, Any]) -> None:
    """Check that a network has the batch norm that a method is about.

    Raises:
      UserError: it has none.
    """
    if variables.get("batch_stats"):
        return
    for name, wrong in (("stoch_norm", method.stoch_norm > 0), ("trains", method.trains == "norm")):
        if wrong:
            raise UserError(
                f"config.method.{name}={getattr(method, name)} is about batch norm, which this network does not have. "
                "Choose another method or another network."
            )


def check_mixed(method: MethodSettings, config: Config) -> None:
    """Check that no image has parts of two classes where a method compares classes.

    Raises:
      UserError: images are mixed.
    """
    for name in ("mixup", "cutmix"):
        if method.contrast and getattr(config.data, name):
            raise UserError(
                f"config.method.contrast={method.contrast:g} compares images by their class, but "
                f"config.data.{name}={getattr(config.data, name):g} mixes images of two classes. Set one of them to 0."
            )


def check_batch(config: Config) -> None:
    """Check that the batch divides by the number of devices and micro-batches.

    Raises:
      UserError: it does not.
    """
    if config.batch_size < 1 or config.accumulate < 1:
        raise UserError(
            f"config.batch_size={config.batch_size} and config.accumulate={config.accumulate} must be at least 1."
        )
    devices = jax.device_count()
    if config.batch_size % (devices * config.accumulate):
        unit = devices * config.accumulate
        raise UserError(
            f"config.batch_size={config.batch_size} does not divide by {devices} devices × "
            f"config.accumulate={config.accumulate}: {config.batch_size % unit} images would be left. "
            f"Set it to a multiple of {unit}, such as {max(1, round(config.batch_size / unit)) * unit}."
        )
