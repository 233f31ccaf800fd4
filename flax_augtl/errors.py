"""The error that a user can put right. Every other one is a fault of the program, and shows where it happened."""


class UserError(ValueError):
    """Something that the user can put right; the message says what is wrong, where, and what to do."""


class ConfigError(UserError):
    """A configuration has errors; the message has all of them."""
