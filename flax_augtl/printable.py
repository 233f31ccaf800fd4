"""Names from others, made harmless for terminals and spreadsheets."""


def for_terminal(text: str) -> str:
    """Return a text with its control characters written out: they could move the cursor, or worse. Lines stay lines."""
    return "".join(c if c == "\n" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def on_one_line(text: str) -> str:
    """Return a text as `for_terminal` does, with its line breaks written out as well."""
    return for_terminal(text).replace("\n", "\\n")


def for_spreadsheet(text: str) -> str:
    """Return a text that spreadsheets show rather than compute: one that could be a formula gets a `'` before it.

    Numbers, which may have a sign, stay as they are.
    """
    if not text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return text
    try:
        float(text)
        return text
    except ValueError:
        return "'" + text
