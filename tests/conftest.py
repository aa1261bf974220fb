"""Settings for all tests."""

import matplotlib
import pytest
import torch

matplotlib.use("Agg")            # no test opens a window


@pytest.fixture(scope="module")
def one_thread():
    """One thread for a file: small tensors wait less, and bits are promised for one number only."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
