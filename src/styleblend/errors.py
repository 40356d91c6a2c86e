"""Errors whose messages are meant for users."""


class StyleBlendError(Exception):
    """An error that the user can fix. The message is one line: what was wrong, the value, the remedy."""


class TransientError(StyleBlendError):
    """A failure that may pass, as of a network or a server: worth a retry."""
