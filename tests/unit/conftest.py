"""Settings of hypothesis: no limit of time per example, which would depend on the machine."""

from hypothesis import settings

settings.register_profile("callboard", deadline=None)
settings.load_profile("callboard")
