"""What every test shares."""

import os

from hypothesis import settings

# xdist gives each core a process; threads of torch on top of that only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples on every machine and in every run; a busy machine is no failure.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")
