"""What several tests share."""

from pathlib import Path

import pytest
import torch

pytest.register_assert_rewrite("surrogates")  # a failed assertion there shows its values, too

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The top folder of the repository."""
    return CHECKOUT


@pytest.fixture(scope="module")
def one_thread():
    """The same seed gives the same numbers on one thread only."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
