"""Write docs/configuration.md from the schema: `python -m docs.configuration` in the root of the repository."""

import json
from pathlib import Path

from flax_augtl.config.field import Field, comment_of, fields_of, sections_of
from flax_augtl.config.schema import Config

PAGE = Path(__file__).with_suffix(".md")
_INTRODUCTION = """# Configuration

Every field, with its type, default and meaning. Set a field on the command line as `--config.FIELD=VALUE`, or in a
config file such as [configs/folder.py](../flax_augtl/configs/folder.py). `None` on the command line clears an optional
field. Of fields that give one length in several units (`…_steps`, `…_epochs`, `…_examples`), one counts. The names of
networks are in [weights.md](weights.md#networks), those of heads in [heads.md](heads.md#heads),
those of methods in [methods.md](methods.md).

`python -m docs.configuration` writes this page from the schema.
"""


def page() -> str:
    """Return the page."""
    sections = sections_of(Config)
    own = [field for field in fields_of(Config) if field.name.split(".")[0] not in sections]
    parts = [_INTRODUCTION, "## `config`\n", _table(own)]
    for section, kind in sections.items():
        heading = [f"\n## `config.{section}`\n"]
        comment = comment_of(Config, section)
        parts += [
            *heading,
            *([f"{_escaped(comment)}\n"] if comment else []),
            _table(list(fields_of(kind, f"{section}."))),
        ]
    return "\n".join(parts) + "\n"


def _table(fields: list[Field]) -> str:
    lines = ["| field | type | default | |", "|---|---|---|---|"]
    for field in fields:
        limits = []
        if field.setting.choices:
            limits.append("One of " + ", ".join(f"`{choice}`" for choice in field.setting.choices) + ".")
        if field.setting.has_range:
            limits.append(f"{field.setting.range_text().capitalize()}.")
        words = " ".join([_escaped(field.setting.comment), *limits])
        kind = field.kind.replace(" or null", " or None")
        lines.append(f"| `{field.name}` | {kind} | `{_default(field.setting.default)}` | {words} |")
    return "\n".join(lines)


def _default(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _escaped(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;").replace("*", r"\*")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
