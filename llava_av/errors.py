"""The one base of every error that a user, not a developer, has to act on."""

__all__ = ["UserError"]


class UserError(Exception):
    """Its text is one line that names the thing at fault and what to do about it.

    Commands print the text alone and exit with 1; anything else that escapes is a bug and keeps its
    traceback.
    """
