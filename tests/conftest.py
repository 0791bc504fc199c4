"""What every test shares."""

from hypothesis import settings

# The same examples on every machine and in every run; a busy machine is no failure.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")
