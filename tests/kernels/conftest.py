"""What holds for the tests of the kernels."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Compute on one thread: the layers are small, and threads that wait for each other on a busy machine are slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
