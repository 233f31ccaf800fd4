"""Errors that the user can fix. Every other exception is a bug of the program, which shows its traceback."""


class UserError(ValueError):
    """An error that the user can fix; the message says what is wrong, where, and what to do."""


class ConfigError(UserError):
    """A configuration has errors; the message lists all of them."""
