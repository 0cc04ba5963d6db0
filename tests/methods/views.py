"""RAZH as `experiments/method/razh_views.yaml` has it: on several views, without its terms on parts."""

import yaml

from razh.methods.razh import RAZH
from razh.run.recipe import config_file

__all__ = ["of_views", "razh_views"]


def of_views(**changes):
    """Return the arguments of RAZH on views; the groups of options in `changes` are merged with its own."""
    arguments = yaml.safe_load(config_file("method", "razh_views").read_text())["model"]["init_args"]
    for option in ("bits", "lr"):
        del arguments[option]
    for name, value in changes.items():
        arguments[name] = {**arguments.get(name, {}), **value} if isinstance(value, dict) else value
    return arguments


def razh_views(**arguments):
    """Return the method."""
    return RAZH(**of_views(**arguments))
