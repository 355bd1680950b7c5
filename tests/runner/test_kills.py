"""Sweeps that are killed at random moments, in random ways, end with the table of one that was not.

`PYTHONPATH=tests python -m helpers.kills --n 100` does more of them.
"""

import random
import sys

import pytest

from helpers import kills

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
EPOCHS = 60


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return kills.reference(tmp_path_factory.mktemp("reference") / "r", EPOCHS)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_sweep_that_was_killed_a_few_times_comes_to_the_same_bits(uninterrupted, tmp_path, seed):
    lines = list(kills.chain(tmp_path / "chain", uninterrupted, random.Random(seed), 3, EPOCHS))
    assert lines
