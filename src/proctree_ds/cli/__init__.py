"""The commands `proctree-detect` and `proctree`. Only here does anything print, or exit."""
