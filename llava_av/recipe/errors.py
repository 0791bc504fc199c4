"""Errors of the recipe package."""

from llava_av.errors import UserError

__all__ = ["RecipeError"]


class RecipeError(UserError):
    """A recipe that is missing, does not parse, or holds a value that is not allowed."""
