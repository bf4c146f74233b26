"""Files from strangers: whatever is changed in a bundle ends in one line, and no engine sees a changed model file.

HOSTILE=10000 sets how many changes are tried (`make check-all`); a few hundred by default.
"""

import json
import os
import shutil

import numpy as np
import pytest

from devices.size import ModelError, read_model
from runtime import engine
from runtime.bundle import Bundle
from runtime.member import BundleError

N_CHANGES = int(os.environ.get("HOSTILE", 400))
ODD_VALUES = (
    None, True, False, -1, 0, 1, 2, 1e308, -1e308, 1e-308, float("nan"), float("inf"), 10**400, -(2**63), 0.5,
    "", ".", "..", "../x", "/etc/passwd", "a\nb", "\0", "x" * 5000, "é", [], {}, [[]], [None], {"a": 1}, [1] * 300,
)  # fmt: skip


def changed_bytes(data, rng):
    """One change such as a bad disk, a broken copy or a stranger makes; never none."""
    at, n = int(rng.integers(len(data))), int(rng.integers(1, 65))
    noise = rng.integers(0, 256, n, dtype=np.uint8).tobytes()
    new = (
        data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :],  # a bit
        data[:at] + noise + data[at + n :],  # a stretch
        data[:at] + data[at + n :],  # lost
        data[:at] + noise + data[at:],  # put in
        data[:at] + data[at : at + n] + data[at:],  # twice
        data[:at],  # cut off
    )[int(rng.integers(6))]
    return new if new != data else new + b"\0"


def changed_json(data, rng):
    """One value of the tree is replaced by an odd one, removed, or put somewhere else."""
    values = json.loads(data)
    node = values
    while True:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key = keys[int(rng.integers(len(keys)))]
        if not isinstance(node[key], (dict, list)) or not node[key] or rng.random() < 0.25:
            break
        node = node[key]
    kind = rng.integers(4)
    if kind == 0:
        del node[key]
    elif kind == 1:
        node[key] = values["members"][0] if rng.random() < 0.5 else values["labels"]
    else:
        node[key] = ODD_VALUES[int(rng.integers(len(ODD_VALUES)))]
    try:
        return json.dumps(values).encode()
    except ValueError:  # a tree put into itself has no text
        return b"[" * 100_000


@pytest.fixture()
def bundle(small_bundle, tmp_path, monkeypatch):
    """A copy to change, and an engine that insists on the model files as they were."""
    shutil.copytree(small_bundle, tmp_path / "bundle")
    whole = {path.name: path.read_bytes() for path in small_bundle.iterdir()}

    def open_model(path, threads=1):
        assert path.read_bytes() == whole[path.name], "an engine was given a changed file"

        def run(patches):
            engine._check_shape(patches, [3, 128, 128])
            return np.zeros((len(patches), 4), np.float32)

        return run

    monkeypatch.setattr(engine, "open_model", open_model)
    return tmp_path / "bundle"


def refused(call, *args, error=BundleError):
    """Whether the call ends in its one-line error; any other exception is a crash and passes on."""
    try:
        call(*args)
    except error as caught:
        said = str(caught)
        assert said and "\n" not in said and len(said) < 2000
        return True
    return False


def test_changes_to_bundle_json(bundle):
    data, rng, n_refused = (bundle / "bundle.json").read_bytes(), np.random.default_rng(0), 0
    for i in range(N_CHANGES // 2):
        change = changed_json if i % 4 else changed_bytes
        (bundle / "bundle.json").write_bytes(change(data, rng))
        n_refused += refused(Bundle.load, bundle, ("tflite", "onnx")[i % 2])
    assert N_CHANGES // 8 < n_refused < N_CHANGES // 2  # some changes, to a mean say, leave a bundle all the same


@pytest.mark.parametrize("fmt", ["tflite", "onnx"])
def test_changes_to_model_files(bundle, fmt):
    """The bundle refuses every one by its checksum. `devices.report` reads model files without one: it may find a
    model in what is left, but does not crash over it."""
    path, rng = bundle / f"gam.{fmt}", np.random.default_rng(1)
    data = path.read_bytes()
    for _ in range(N_CHANGES // 4):
        path.write_bytes(changed_bytes(data, rng))
        assert refused(Bundle.load, bundle, fmt)
        refused(read_model, path, error=ModelError)


def test_patches_of_another_shape_are_refused_by_the_real_engines(small_bundle, tmp_path):
    values = json.loads((small_bundle / "bundle.json").read_text())
    shutil.copytree(small_bundle, tmp_path / "bundle")
    values["patch"]["n_frames"] = 64
    (tmp_path / "bundle" / "bundle.json").write_text(json.dumps(values))
    for fmt in ("tflite", "onnx"):
        with pytest.raises(BundleError, match=r"\(3, 64, 128\) for a net that wants \(3, 128, 128\)"):
            Bundle.load(tmp_path / "bundle", fmt)
