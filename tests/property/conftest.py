"""The same histories in every run, so that what passes here passes anywhere.

Other ones are drawn by `python -m benchmarks histories`, by the hundred thousand.
"""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")
