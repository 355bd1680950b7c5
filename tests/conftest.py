"""What all tests share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _as_a_worker_computes():
    """One thread; and whatever a command run in this process set is set back (hypothesis needs subnormal numbers)."""
    torch.set_num_threads(1)
    yield
    torch.set_flush_denormal(False)
