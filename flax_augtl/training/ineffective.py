"""Settings that have no effect on a run; the log names them at the start."""

from flax_augtl.config.durations import UNITS, in_steps
from flax_augtl.config.methods import changed
from flax_augtl.config.schedules import SCHEDULES
from flax_augtl.config.schema import Config
from flax_augtl.config.unused_fields import unused_fields
from flax_augtl.training.experiment import method_of


def ineffective_settings(
    config: Config,
    *,
    total_steps: int,
    evaluate_every: int,
    examples: int,
    has_validation: bool,
    trains_source: bool = True,
) -> list[str]:
    """Return a sentence for every setting that has no effect on a run.

    Args:
      config: the configuration.
      total_steps: length of the run in steps.
      evaluate_every: steps between two evaluations.
      examples: number of training examples.
      has_validation: whether the dataset has a validation split.
      trains_source: whether a layer of the source network trains.
    """
    # A new run is refused for them; a run of an earlier version goes on.
    schedule, found = config.schedule, unused_fields(config)
    field = next(
        (f"config.schedule.boundaries_{unit}" for unit in UNITS if getattr(schedule, f"boundaries_{unit}")), None
    )
    if field and field.rpartition(".")[2] in SCHEDULES[schedule.name].uses:
        steps = in_steps(schedule, "boundaries", examples=examples, batch_size=config.batch_size)
        if late := [step for step in steps if step >= total_steps]:
            found.append(
                f"{len(late)} of {len(steps)} boundaries in {field} have no effect: they come at step "
                f"{', '.join(map(str, late))}, and the run ends after step {total_steps}."
            )
    if not trains_source and (method := changed(method_of(config))):
        named = " and ".join(f"config.method.{name}={value}" for name, value in method.items())
        found.append(f"{named} {'have' if len(method) > 1 else 'has'} no effect: no pretrained layer is trained.")
    patience = config.early_stopping
    evaluations = -(-total_steps // evaluate_every)
    if patience and not has_validation:
        found.append("config.early_stopping has no effect: there is no validation split to stop by.")
    elif patience >= evaluations:
        found.append(f"config.early_stopping={patience} has no effect: the run has only {evaluations} evaluations.")
    return found
