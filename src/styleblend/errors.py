"""Errors whose messages are meant for users."""


class StyleBlendError(Exception):
    """An error that the user can fix. The message is one line: what was wrong, the value, the remedy."""


class TransientError(StyleBlendError):
    """A failure that may pass, as of a network or a server: worth a retry."""


def reason_of(error: BaseException) -> str:
    """A library's own reason: the first line of its message that holds words, else the kind of error."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
