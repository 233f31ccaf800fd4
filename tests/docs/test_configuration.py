"""The page about the configuration is that of the schema."""

from docs import configuration
from flax_augtl.config.field import fields_of
from flax_augtl.config.schema import Config


def test_the_page_is_written_from_the_schema():
    assert configuration.PAGE.read_text("utf-8") == configuration.page(), "run python -m docs.configuration"


def test_every_field_has_a_row_with_a_meaning():
    rows = {
        line.split("`")[1]: line.split("|")[-2].strip() for line in configuration.page().splitlines() if "| `" in line
    }
    assert {*rows} >= {field.name for field in fields_of(Config)}
    assert all(len(meaning) > 5 for meaning in rows.values()), [name for name in rows if len(rows[name]) <= 5]
