"""wdgrid: train a whole grid of (learning rate, weight decay) cells and see whether the space is separable."""

from importlib.metadata import version

__version__ = version("wdgrid")
