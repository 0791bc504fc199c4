"""Errors of servers."""

from llava_av.errors import UserError

__all__ = ["ServiceError"]


class ServiceError(UserError):
    """A server does not start or does not answer, or the state folder is in use."""
