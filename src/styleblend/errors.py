"""The one error that a user is meant to read."""


class StyleBlendError(Exception):
    """Something that the user can mend. The message is one line: what was wrong, its value, and what to do."""
