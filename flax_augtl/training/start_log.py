"""What the log says before the first step: the data, the network, what is frozen, and useless settings."""

from flax_augtl.config.methods import changed
from flax_augtl.runtime import distributed
from flax_augtl.runtime.text import on_one_line
from flax_augtl.training import freezing
from flax_augtl.training.balance import imbalance
from flax_augtl.training.experiment import Experiment, method_of
from flax_augtl.training.ineffective import ineffective_settings
from flax_augtl.training.log import RunLog
from flax_augtl.training.precision import fewer_bits
from flax_augtl.training.progress import Progress

_METRICS = {"top1": "top-1 accuracy", "mean_per_class": "mean accuracy per class"}


def log_start(log: RunLog, experiment: Experiment, progress: Progress) -> None:
    """Log what will be trained on what, with the table of what is frozen."""
    dataset = experiment.dataset
    for note in (*experiment.source["notes"], *dataset.notes):
        log.say(note)
    sizes = (
        f"{len(dataset.train)} training, {len(dataset.val) if dataset.val is not None else 'no'} validation and "
        f"{len(dataset.test)} test examples"
    )
    names = on_one_line(", ".join(dataset.class_names[:4]) + ", …" * (len(dataset.class_names) > 4))
    log.say(
        f"{dataset.name}: {len(dataset.class_names)} classes ({names}), {sizes}; "
        + (
            "the last checkpoint is used, because there is no validation split"
            if dataset.val is None
            else f"the best checkpoint is chosen by validation {_METRICS[dataset.metric]}"
        )
    )
    if warning := imbalance(dataset.train.labels, dataset.class_names, experiment.config):
        log.say(warning)
    log.say(
        f"{distributed.describe()}, {experiment.config.compute_dtype}, {experiment.preprocessing.image_size} × "
        f"{experiment.preprocessing.image_size} pixels"
    )
    if sentence := fewer_bits(experiment.config.compute_dtype):
        log.say(sentence)
    log.say(
        freezing.table(
            experiment.plan,
            experiment.variables["params"],
            float(experiment.rates.max()),
            experiment.optimizer.new_layer_multiplier,
            rates.factors(experiment.plan) if (rates := experiment.optimizer.places.group_rates) else None,
        )
    )
    if experiment.plan.trains_source and (method := changed(method_of(experiment.config))):
        log.say(f"Method of fine-tuning: {', '.join(f'{name}={value}' for name, value in method.items())}.")
    if experiment.features.note:
        log.say(experiment.features.note)
    if experiment.features.keeps and experiment.config.data.cache != "none":
        log.say(f"config.data.cache={experiment.config.data.cache} has no use: no image is decoded twice.")
    for sentence in ineffective_settings(
        experiment.config,
        total_steps=experiment.total_steps,
        evaluate_every=experiment.evaluate_every,
        examples=len(dataset.train),
        has_validation=dataset.val is not None,
        trains_source=experiment.plan.trains_source,
    ):
        log.say(f"warning: {sentence}")
    if progress.step:
        log.say(f"Resuming from step {progress.step} of {experiment.total_steps}.")
