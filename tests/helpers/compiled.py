"""Whether this machine can compile: not every user's can, CI's must."""

import os

import pytest

from wdgrid.engine.native.compiler import compiler

needs_compiler = pytest.mark.skipif(
    not compiler() and not os.environ.get("CI"), reason="no C compiler: MLPs use PyTorch here"
)
