"""What PyTorch does while a run trains, and that it does as before afterwards."""

import platform
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from contextual_rnn.experiments.training.threads import threads


def subnormal_numbers_are_zeros():
    return not bool(torch.tensor(1e-40) * 1)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="no slower with subnormal numbers")
@pytest.mark.parametrize("before", [False, True])
def test_subnormal_numbers_are_zeros_while_a_run_trains(before):
    torch.set_flush_denormal(before)
    try:
        with threads(1):
            assert subnormal_numbers_are_zeros()
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(subnormal_numbers_are_zeros).result()
        assert subnormal_numbers_are_zeros() == before
    finally:
        torch.set_flush_denormal(False)


def test_a_run_leaves_the_number_of_threads_as_it_was():
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
