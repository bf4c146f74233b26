"""The int8 net's file: everything comes back, the same net makes the same bytes, and what is damaged is refused."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from random_nets import random_int8, random_patches

from export import int8, numbers
from export.to_onnx import onnx_bytes
from export.to_tflite import tflite_bytes


@pytest.fixture(scope="module")
def net():
    return random_int8((8, 12, 8, 16, 12, 16), True, 32, 32)


def reloaded(net, folder):
    (folder / "net.safetensors").write_bytes(numbers.to_bytes(net))
    return numbers.load(folder / "net.safetensors")


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 4), min_size=6, max_size=6), st.booleans(), st.integers(0, 9))
def test_round_trip(tmp_path_factory, quarters, decomposed, seed):
    net = random_int8([4 * n for n in quarters], decomposed, 24, 20, seed)
    again = reloaded(net, tmp_path_factory.mktemp("net"))
    patches = random_patches(2, 24, 20, seed)
    assert np.array_equal(int8.run(again, patches), int8.run(net, patches))
    assert numbers.to_bytes(again) == numbers.to_bytes(net)
    assert tflite_bytes(again) == tflite_bytes(net) and onnx_bytes(again) == onnx_bytes(net)


def test_the_file_holds_numbers_and_little_else(net):
    n_bytes = sum(a.nbytes for op in net.ops if hasattr(op, "weight") for a in (op.weight, op.bias, op.scale))
    data = numbers.to_bytes(net)
    assert n_bytes < len(data) < n_bytes + 8_000
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert json.loads(header["__metadata__"]["int8net"])["in_shape"] == [3, 32, 32]


def edited(net, folder, change):
    """The file of `net` with its header and tensors changed in place by `change(header, tensors)`."""
    data = numbers.to_bytes(net)
    length = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8:length])["__metadata__"]["int8net"])
    tensors = dict(safetensors.numpy.load(data))
    change(header, tensors)
    path = folder / "edited.safetensors"
    path.write_bytes(safetensors.numpy.save(tensors, {"int8net": json.dumps(header)}))
    return path


def put(field, value, at=None):
    """A change to the header's operator `at`, or to the header itself."""
    return lambda header, tensors: (header if at is None else header["ops"][at]).__setitem__(field, value)


def numbers_to(name, value):
    return lambda header, tensors: tensors.__setitem__(name, value(tensors[name]))


DAMAGES = {  # the small net begins: 1 conv, 2 slice, 3 conv, 4 grouped conv, 5 conv, 6 concat, 7 pool
    "another format": (put("format", 2), "format 2"),
    "no operators": (put("ops", []), "1 tensors"),
    "an unknown operator": (put("op", "exec", 0), "'exec' is not one of"),
    "a flat input": (put("in_shape", [3, 32]), "2 dimensions"),
    "an endless input": (put("in_shape", [3, 32, 1 << 40]), "is not a whole number"),
    "an input that is no number": (put("in_shape", [3, 32, True]), "True is not a whole number"),
    "a tensor that comes later": (put("src", 9, 2), "9 is not a whole number from 0 to 2"),
    "a negative source": (put("src", -1, 2), "-1 is not a whole number"),
    "a source that is a list": (put("src", [0, 1], 1), "'<'|not|does not fit|integer|list|tuple"),
    "a slice of nothing": (put("stop", 0, 1), "operator 2 does not fit"),
    "a slice beyond the channels": (put("stop", 99, 1), "operator 2 does not fit"),
    "a pool of nothing": (put("kernel", [0, 2], 6), "operator 7 does not fit"),
    "a pool larger than its source": (put("kernel", [2, 64], 6), "operator 7 does not fit"),
    "a pool without a shape": (put("kernel", 2, 6), "operator 7 does not fit"),
    "a concatenation of nothing": (put("srcs", [], 5), "operator 6 does not fit"),
    "a concatenation of different sizes": (put("srcs", [3, 4, 5, 5], 5), "does not fit"),
    "an operator without its source": (lambda h, t: h["ops"][1].pop("src"), "'src' is missing"),
    "no weights": (lambda h, t: t.pop("1.weight"), "'1.weight' is missing"),
    "a tensor too many": (lambda h, t: t.__setitem__("more", t["scales"]), "1 tensors too many"),
    "float weights": (numbers_to("1.weight", lambda a: a.astype(np.float32)), "1.weight is float32"),
    "weights of -128": (numbers_to("1.weight", lambda a: np.full_like(a, -128)), "operator 1 does not fit"),
    "a kernel with no middle": (numbers_to("1.weight", lambda a: a[..., :2].copy()), "operator 1 does not fit"),
    "biases for others": (numbers_to("1.bias", lambda a: a[:-1].copy()), "operator 1 does not fit"),
    "a bias too large": (numbers_to("1.bias", lambda a: np.full_like(a, -(2**31))), "operator 1 does not fit"),
    "a scale of nothing": (numbers_to("scales", np.zeros_like), "not a positive number"),
    "a scale that is none": (numbers_to("scales", lambda a: a * np.nan), "not a positive number"),
    "a multiplier above one": (numbers_to("1.scale", lambda a: a * 1e9), "operator 1 does not fit"),
    "a pool that changes the grid": (numbers_to("zero_points", lambda a: np.arange(len(a), dtype=np.int8)), "fit"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused_in_one_line(net, tmp_path, name):
    change, sentence = DAMAGES[name]
    with pytest.raises(ValueError, match=sentence) as caught:
        numbers.load(edited(net, tmp_path, change))
    assert "\n" not in str(caught.value) and "edited.safetensors" in str(caught.value)


def test_other_files_are_refused(net, tmp_path):
    (tmp_path / "text").write_text("no numbers")
    (tmp_path / "bare").write_bytes(safetensors.numpy.save({"a": np.zeros(3)}))
    for name, sentence in (("missing", "no such file"), ("text", "no int8 net"), ("bare", "'int8net' is missing")):
        with pytest.raises(ValueError, match=sentence):
            numbers.load(tmp_path / name)


def test_an_unused_edit_changes_nothing(net, tmp_path):
    """The damages above are refused for what they change, not because the file was written again."""
    again = numbers.load(edited(net, tmp_path, lambda header, tensors: None))
    assert numbers.to_bytes(again) == numbers.to_bytes(net)
    assert dataclasses.astuple(again.ops[1]) == dataclasses.astuple(net.ops[1])
