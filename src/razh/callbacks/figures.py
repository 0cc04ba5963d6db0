"""Figures of a run, drawn after the test."""

from lightning.pytorch import Callback


class Figures(Callback):
    """Draw the figures."""

    def __init__(self, enabled: bool = True) -> None:
        """Build."""
        self.enabled = enabled
