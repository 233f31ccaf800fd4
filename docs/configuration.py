"""Write docs/configuration.md from the comments of configs/common.py: `python docs/configuration.py`."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def page() -> str:
    """Return the page: every field with its default and its meaning, in the order of the file."""
    lines = [
        "# Configuration",
        "",
        "Every field, with its default and meaning, in the order of [configs/common.py](../flax_augtl/configs/common.py).",
        "`python docs/configuration.py` writes this page. Set a field on the command line as `--config.FIELD=VALUE`, or in",
        "a config file. `None` on the command line clears an optional field.",
        "",
        "| field | default | |",
        "|---|---|---|",
    ]
    comment, meaning = [], ""
    for line in (ROOT / "flax_augtl" / "configs" / "common.py").read_text("utf-8").splitlines():
        line = line.strip()
        if line.startswith("# "):
            comment.append(line[2:])
        elif match := re.fullmatch(r"config\.([\w.]+) = (.+)", line):
            name, value = match.groups()
            if comment:  # It is that of several fields in a row, or of the first of a group.
                meaning, comment = " ".join(comment).replace("|", r"\|").replace("<", "&lt;").replace("*", r"\*"), []
            if "ConfigDict()" not in value or name == "variants":
                lines.append(f"| `{name}` | {_default(value)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _default(value: str) -> str:
    if match := re.fullmatch(r"placeholder\((\w+)\)", value):
        return f"`None` ({match[1]})"
    if match := re.fullmatch(r"config_dict\.FieldReference\((.+), field_type=object\)", value):
        value = match[1]
    return "`{}`" if "ConfigDict" in value else f"`{value}`"


if __name__ == "__main__":
    (ROOT / "docs" / "configuration.md").write_text(page(), "utf-8")
