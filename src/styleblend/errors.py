"""The errors that a user is meant to read."""


class StyleBlendError(Exception):
    """Something that the user can mend. The message is one line: what was wrong, its value, and what to do."""


class TransientError(StyleBlendError):
    """Something that may pass by itself, as a network or a server that does not answer: worth another try."""
