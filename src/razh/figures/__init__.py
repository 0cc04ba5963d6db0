"""Figures of a run as pure functions: arrays in, `matplotlib.figure.Figure` out; no Lightning, no pyplot, no screen."""
