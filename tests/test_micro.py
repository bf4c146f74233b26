"""tflite-micro, the engine of microcontrollers, computes the integer reference bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_nets import random_int8, random_patches

from export import int8, parity
from export.to_tflite import tflite_bytes
from train.cnn7 import WIDTHS_CR, WIDTHS_WIDE

pytestmark = pytest.mark.skipif(
    not parity.has_micro(), reason="tflite-micro is not installed: pip install tflite-micro"
)


def steps(net, patches):
    exact = int8.dequantize(net, int8.run(net, patches))
    return np.abs(parity.run_micro(tflite_bytes(net), patches) - exact).max() / float(net.scales[-1])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 6), min_size=6, max_size=6),
    st.booleans(), st.integers(16, 45), st.integers(16, 45), st.integers(0, 9),
)  # fmt: skip
def test_micro_equals_the_reference(quarters, decomposed, frames, bands, seed):
    net = random_int8([4 * n for n in quarters], decomposed, frames, bands, seed)
    assert steps(net, 2 * random_patches(4, frames, bands, seed + 1)) < 0.01


@pytest.mark.parametrize("widths, decomposed", [(WIDTHS_CR, False), (WIDTHS_CR, True), (WIDTHS_WIDE, True)])
def test_micro_equals_the_reference_at_full_size(widths, decomposed):
    assert steps(random_int8(widths, decomposed, n_patches=1), random_patches(1, 128, 128, seed=7)) < 0.01
