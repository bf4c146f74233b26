"""Float files by the converters that others maintain, behind the same command and the same gate."""

import dataclasses
import importlib.util

import numpy as np
import pytest
import torch
from conftest import SR, noise, run
from random_nets import random_model, random_patches, torch_logits
from test_systems import patches as system_patches
from test_systems import small

from export import convert, parity
from export.assemble import assemble
from runtime.bundle import Bundle
from runtime.frontend import spectrogram
from runtime.patches import deltas, patches
from train.models import NETS

MISSING = [name for names in convert.NEEDS.values() for name in names if not importlib.util.find_spec(name)]
needs_converters = pytest.mark.skipif(bool(MISSING), reason="wants pip install 'tinyear[convert]'")


@pytest.mark.skipif(not MISSING, reason="both converters are installed")
def test_the_missing_extra_is_named(small_runs, sounds, tmp_path):
    small_runs[0].save(tmp_path / "run")
    result = run("export", tmp_path / "run", "--to", tmp_path / "b", "--converters", "--data", sounds)
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and not (tmp_path / "b").exists()
    assert "pip install 'tinyear[convert]'" in result.stderr


class Recurrent(torch.nn.Module):
    """(batch, planes, frames, bands) -> logits, by a GRU over the frames: no form in export.graph."""

    def __init__(self):
        super().__init__()
        self.gru, self.fc = torch.nn.GRU(3 * 16, 8, batch_first=True), torch.nn.Linear(8, 5)

    def forward(self, x):
        frames = x.transpose(1, 2).flatten(2)  # (batch, frames, planes * bands)
        return self.fc(self.gru(frames)[0].mean(1))


def test_other_architectures_are_told_the_flag(small_runs, tmp_path):
    other = dataclasses.replace(small_runs[0], model=Recurrent().eval())
    with pytest.raises(ValueError, match="Recurrent has no form of ours: export it with --converters"):
        assemble([other], tmp_path / "b", [random_patches(1, 128, 128)], noise(5))
    assert not list(tmp_path.iterdir())


@needs_converters
@pytest.mark.parametrize("name", ["CNN-7 in the paper's order", "recurrent"])
def test_converted_files_equal_torch(name):
    torch.manual_seed(0)
    model = Recurrent().eval() if name == "recurrent" else random_model((8, 12, 8, 16, 12, 16), order="paper")
    x = random_patches(3, 24, 16)
    logits = torch_logits(model, x)
    files = {
        "onnxruntime": parity.run_onnx(convert.onnx_bytes(model, x.shape[1:]), x),
        "LiteRT": parity.run_tflite(convert.tflite_bytes(model, x.shape[1:]), x),
    }
    report = parity.compare(logits, files, 1e-4)
    assert all(row["agreement"] == 1 for row in report.values())


@needs_converters
@pytest.mark.parametrize("name", NETS)
def test_every_architecture_converts(name):
    """Real-valued, unrolled, without what converters do not know: cdist, a Fourier transform."""
    model, x = small(name), system_patches(name, 3)
    with torch.no_grad():
        logits = model(x).numpy()
    assert logits.std() > 0.05
    files = {
        "onnxruntime": parity.run_onnx(convert.onnx_bytes(model, x.shape[1:]), x.numpy()),
        "LiteRT": parity.run_tflite(convert.tflite_bytes(model, x.shape[1:]), x.numpy()),
    }
    assert all(row["agreement"] == 1 for row in parity.compare(logits, files, 1e-3).values())


class Complex(torch.nn.Module):
    def forward(self, x):
        return torch.fft.rfft(x.mean((1, 2))).abs()[:, :5]


@needs_converters
def test_what_a_format_cannot_hold_ends_in_one_line(small_runs, tmp_path):
    other = dataclasses.replace(small_runs[0], model=Complex().eval())
    x = random_patches(2, 128, 128)
    with pytest.raises(ValueError, match=r"no tflite file can hold this net .*: export it with --only onnx") as error:
        assemble([other], tmp_path / "b", [x], noise(5), converted=True)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@needs_converters
def test_a_converted_bundle_passes_the_gate_and_hears(small_runs, tmp_path, monkeypatch):
    one, wave = small_runs[:1], noise(5)
    cut = [r.normalise(patches(deltas(spectrogram(wave, r.frontend)), r.patch.n_frames, 32)) for r in one]
    bundle = assemble(one, tmp_path / "b", cut, wave, converted=True)
    ours = assemble(one, tmp_path / "ours", cut, wave, quantized=False)
    assert bundle.provenance["numbers"] == "float32"
    assert np.abs(bundle.predict(wave, SR) - ours.predict(wave, SR)).max() < 1e-4
    assert Bundle.load(tmp_path / "b", "onnx").check() < 1e-3
    right = parity.run_onnx
    monkeypatch.setattr(parity, "run_onnx", lambda *args: right(*args) + 0.01)
    with pytest.raises(ValueError, match="onnxruntime: logits differ from the reference"):
        assemble(one, tmp_path / "wrong", cut, wave, converted=True)
    assert not (tmp_path / "wrong").exists()
