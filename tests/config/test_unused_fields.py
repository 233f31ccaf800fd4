"""Fields that the chosen schedule or optimizer does not read are refused, and the tables say which do."""

import dataclasses
import json

import pytest
from etils import epath

from flax_augtl.config.convert import to_json
from flax_augtl.config.optimizers import OPTIMIZERS
from flax_augtl.config.schedules import SCHEDULES
from flax_augtl.config.schema import FIELDS, Config, ScheduleConfig
from flax_augtl.config.unused_fields import unused_fields
from flax_augtl.errors import ConfigError
from flax_augtl.study.study_folder import check_folder
from flax_augtl.workdir.resume import check_same

UNUSED = Config(optimizer="adamw", momentum=0.5, schedule=ScheduleConfig(name="constant", final=0.1, factor=0.5))
SENTENCES = [
    "config.schedule.final=0.1 has no effect: only cosine and linear read it, and config.schedule.name is 'constant'.",
    "config.schedule.factor=0.5 has no effect: only step reads it, and config.schedule.name is 'constant'.",
    "config.momentum=0.5 has no effect: only sgd reads it, and config.optimizer is 'adamw'.",
]


def test_each_unused_field_is_named_with_the_choices_that_read_it():
    assert unused_fields(UNUSED) == SENTENCES


def test_defaults_and_fields_that_are_read_are_no_mistakes():
    assert unused_fields(Config()) == []
    for name, row in SCHEDULES.items():
        assert unused_fields(Config(schedule=ScheduleConfig(name=name))) == []
        read = {"final": 0.5, "factor": 0.5, "boundaries_steps": (3.0,)}
        read = {field: value for field, value in read.items() if field in row.uses}
        assert unused_fields(Config(schedule=ScheduleConfig(name=name, **read))) == []
    assert unused_fields(Config(momentum=0.5)) == []
    # Every schedule has a warm-up.
    assert unused_fields(Config(schedule=ScheduleConfig(name="constant", warmup_steps=3))) == []


def test_the_tables_name_fields_that_exist_and_the_schema_has_their_choices():
    assert all(f"schedule.{field}" in FIELDS for row in SCHEDULES.values() for field in row.uses)
    assert all(field in FIELDS for row in OPTIMIZERS.values() for field in row.uses)
    assert FIELDS["schedule.name"].setting.choices == tuple(SCHEDULES)
    assert FIELDS["optimizer"].setting.choices == tuple(OPTIMIZERS)
    assert FIELDS["schedule.final"].setting.comment.startswith("Of cosine and linear: ")


def test_a_new_run_or_study_is_refused_and_one_that_has_begun_goes_on(tmp_path):
    for check in (
        lambda: check_same(UNUSED, epath.Path(tmp_path / "run"), False),
        lambda: check_folder(UNUSED, tmp_path / "study"),
    ):
        with pytest.raises(ConfigError) as caught:
            check()
        assert str(caught.value).splitlines() == [*SENTENCES, "Leave such fields out, or choose what reads them."]
    for name in ("run", "study"):
        (tmp_path / name).mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(to_json(UNUSED)))
    check_same(UNUSED, epath.Path(tmp_path / "run"), False)
    old = to_json(dataclasses.replace(UNUSED))
    del old["schedule"]["reaches_final"]  # As a version without the field wrote it.
    (tmp_path / "run" / "config.json").write_text(json.dumps(old))
    check_same(UNUSED, epath.Path(tmp_path / "run"), False)
