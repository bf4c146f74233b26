"""Runs side by side: options of the loop, the papers' systems as typed, fusion of their predictions, one table of all."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file

from export.graph import graph_of
from export.graph import macs as graph_macs
from runtime.frontend import MEL
from tests.conftest import run
from train import compare, fuse, results, scores
from train.__main__ import main
from train.cnn7 import CNN7
from train.crnn import CRNN
from train.features import PatchShape
from train.loop import _kl_divergence, _set_lr, fit
from train.models import MODELS
from train.recipe import Recipe
from train.run import Run, load_run

# What fit wrote into a checkpoint before `schedule`, `shares`, `crops`, `oversample` and `planes` came.
OLD_IDENTITY = (
    '[{"batch_size": 2, "distill": 0.5, "epochs": 2, "gain_db": 6.0, "lr": 0.003, "mask_bands": 12, "mask_frames": 16, '
    '"mixup_alpha": 0.3, "seed": 0, "temperature": 2.0, "weight_decay": 0.0001}, "cnn7", {"decomposed": false, "dropout": '
    '0.1, "n_classes": 2, "order": "deploy", "widths": [4, 4, 4, 4, 4, 4]}, [{"n_frames": 16, "stride": 16}, "x"]]'
)


def tiny_run(**patch):
    torch.manual_seed(0)
    bands = 8
    shape = PatchShape(16, 16, **patch)
    mean, std = np.zeros((3, bands), "f4"), np.ones((3, bands), "f4")
    return Run("cnn7", CNN7(2, [4] * 6), dataclasses.replace(MEL, n_bands=bands), shape, ("a", "b"), mean, std, {})


def statics(n=6, frames=40):
    return [np.random.default_rng(i).normal(size=(8, frames)).astype("f4") for i in range(n)]


def test_a_checkpoint_of_before_is_resumed(tmp_path):
    """One epoch, its checkpoint put into the old form, the second epoch: the weights of two epochs in one go."""
    recipe, lines = Recipe(epochs=2, batch_size=2), []
    arguments = (statics(), [0, 1] * 3, recipe)
    whole = tiny_run()
    fit(whole, *arguments, tmp_path / "whole", identity=[whole.patch.to_json(), "x"], say=lambda line: None)
    stopped = tiny_run()

    def stop(line):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        fit(stopped, *arguments, tmp_path / "old", identity=[stopped.patch.to_json(), "x"], say=stop)
    path = tmp_path / "old" / "checkpoint.safetensors"
    with safe_open(path, "pt") as file:
        history = file.metadata()["history"]
    save_file(load_file(path), path, {"identity": OLD_IDENTITY, "history": history})
    resumed = tiny_run()
    fit(resumed, *arguments, path.parent, identity=[resumed.patch.to_json(), "x"], say=lines.append)
    assert lines[0] == "resumed after epoch 1" and resumed.meta["seconds_per_epoch"] is None
    ours, theirs = resumed.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert whole.meta["seconds_per_epoch"] > 0


@pytest.mark.parametrize(
    "field, value", [("schedule", "steps"), ("shares", "both"), ("crops", "grid"), ("oversample", True)]
)
def test_other_options_are_another_recipe(field, value):
    values = dataclasses.replace(Recipe(), **{field: value}).to_json()
    assert values[field] == value and field not in Recipe().to_json()
    assert Recipe(**values).to_json() == values
    with pytest.raises(ValueError, match="choose"):
        Recipe(**{field: "other"})


def test_learning_rates():
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])

    def rates(schedule, n_items):
        recipe = Recipe(epochs=4, batch_size=10, lr=0.1, schedule=schedule)
        return [_set_lr(optimizer, recipe, epoch, n_items) for epoch in range(4)]

    assert rates("constant", 50) == [0.1] * 4
    assert rates("cosine", 50) == pytest.approx([0.02, *(0.05 * (1 + math.cos(math.pi * e / 4)) for e in (1, 2, 3))])
    # 150 batches an epoch: 0, 150, 300, 450 of them before each, a step every 200
    assert rates("steps", 1500) == pytest.approx([0.1, 0.1, 0.091, 0.1 * 0.91**2])


def test_kl_plus_l2_is_what_adam_minimises():
    """P1's loss: KL divergence to soft labels by a loop, plus lambda / 2 times the sum of squared weights."""
    torch.manual_seed(0)
    x, decay = torch.randn(5, 3), 0.1
    target = torch.rand(5, 4).softmax(1)
    layers = [torch.nn.Linear(3, 4) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    for layer, given in zip(layers, (decay, 0.0)):
        loss = _kl_divergence(layer(x), target)
        p = layer(x).softmax(1)
        by_loop = sum(target[i, c] * (target[i, c] / p[i, c]).log() for i in range(5) for c in range(4)) / 5
        assert loss.item() == pytest.approx(by_loop.item(), abs=1e-6)
        if not given:
            loss = loss + decay / 2 * sum((w**2).sum() for w in layer.parameters())
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.01, weight_decay=given)
        loss.backward()
        optimizer.step()
    assert torch.allclose(layers[0].weight, layers[1].weight, atol=1e-6)
    assert torch.allclose(layers[0].bias, layers[1].bias, atol=1e-6)


def test_every_patch_of_a_grid_is_trained_on(tmp_path):
    """6 clips of 2 patches, oversampled 5 : 1 -> as many batches as 10 clips of 2 would make."""
    trained = tiny_run()
    steps = []
    trained.model.register_forward_hook(
        lambda module, inputs, output: steps.append(len(output)) if module.training else None
    )
    recipe = Recipe(epochs=1, batch_size=4, crops="grid", oversample=True)
    fit(trained, statics(frames=40), [0] * 5 + [1], recipe, tmp_path, say=lambda line: None)
    assert steps == [4] * 5


@pytest.fixture(scope="module")
def typed(sounds, cache, tmp_path_factory):
    """Runs of the papers' systems as typed, one epoch, scaled down: the folder in which they lie."""
    root = tmp_path_factory.mktemp("typed")
    common = ["--data", str(sounds), "--cache", str(cache), "--epochs", "1", "--batch-size", "4", "--shape", "small"]

    def made(name, *args, fold=2):
        main([*args, *common, "--fold", str(fold), "--out", str(root / name)])

    p1 = ["--hop-length", "1120", "--patch-frames", "16", "--stride", "16"]
    p2 = ["--hop-length", "1120", "--patch-frames", "59", "--stride", "59"]
    for spectrogram in ("p1_logmel", "p1_mfcc", "p1_gam"):
        for fold in (1, 2):
            made(f"cdnn-{spectrogram}-{fold}", "cdnn", "--frontend", spectrogram, *p1, fold=fold)
    made("crnn", "crnn", "--frontend", "p1_logmel", *p1)
    made("joint", "joint", "--frontend", "p1_logmel", *p1)
    three = ["--frontend", "p2_logmel64", "--frontend", "p2_gam"]
    made("ef-spsmt", "tinyvgg", *three, "--frame-decisions", *p2)
    made("lf", "vgg", *three, "--fusion", "late", *p2)
    made("spsmf", "tinyvgg", "--frontend", "p2_logmel64", "--sub-bands", "2", *p2)
    return root


def test_each_system_trains_and_loads_again(typed):
    meta = {path.parent.name: json.loads(path.read_text()) for path in typed.glob("*/meta.json")}
    assert meta["cdnn-p1_mfcc-2"]["patch"] == {"n_frames": 16, "stride": 16, "planes": "stacked"}
    assert meta["cdnn-p1_logmel-2"]["recipe"]["crops"] == "grid" and meta["ef-spsmt"]["recipe"]["schedule"] == "steps"
    assert all(values["seconds_per_epoch"] > 0 for values in meta.values())
    for name in ("crnn", "joint", "ef-spsmt", "lf", "spsmf", "cdnn-p1_mfcc-2"):
        again = load_run(typed / name)
        bands = again.mean.shape[1]
        logits = again.model(torch.randn(2, 1, again.patch.n_frames, bands))
        assert logits.shape == (2, 2) and logits.isfinite().all()
    assert load_run(typed / "cdnn-p1_mfcc-2").mean.shape == (1, 128)  # 64 coefficients, 64 deltas
    assert load_run(typed / "ef-spsmt").frontend.to_json()["stack"][1]["kind"] == "gammatone"


def test_predictions_are_the_scores(typed):
    for folder in typed.iterdir():
        clips, truth, log_p = scores.load_predictions(folder)
        last = json.loads((folder / "meta.json").read_text())["scores"]["last"]
        assert len(clips) == last["n"] == 8
        assert (log_p.argmax(1) == truth).mean() == last["accuracy"]
        assert -log_p[np.arange(8), truth].mean() == pytest.approx(last["log_loss"], abs=1e-5)


def test_fusions_by_a_loop():
    """Eq. (20), (23) and (24) of P1, then the label with the most."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1] * 4, size=(3, 50))  # (spectrograms, clips, classes)
    truth = rng.integers(0, 4, 50)
    rows = fuse.combinations({name: (truth, np.log(p[i])) for i, name in enumerate("abc")})
    assert [row["members"] for row in rows] == [
        ["a"],
        ["b"],
        ["c"],
        ["a", "b"],
        ["a", "c"],
        ["b", "c"],
        ["a", "b", "c"],
    ]
    chosen = [subset for size in (1, 2, 3) for subset in itertools.combinations(range(3), size)]
    for row, subset in zip(rows, chosen):
        hits = {"mean": 0, "prod": 0, "max": 0}
        for clip in range(50):
            mean, prod, top = [0.0] * 4, [1.0] * 4, [0.0] * 4
            for label in range(4):
                for s in subset:
                    mean[label] += p[s, clip, label] / len(subset)
                    prod[label] *= p[s, clip, label]
                    top[label] = max(top[label], p[s, clip, label])
            for kind, votes in (("mean", mean), ("prod", prod), ("max", top)):
                hits[kind] += votes.index(max(votes)) == truth[clip]
        assert {kind: row[kind]["accuracy"] * 50 for kind in hits} == pytest.approx(hits)
    assert [row["mean"]["log_loss"] for row in rows[:3]] == pytest.approx([row["prod"]["log_loss"] for row in rows[:3]])


def test_tables_of_combinations_as_typed(typed, tmp_path):
    runs = sorted(typed.glob("cdnn-*"))
    result = run("train.fuse", *runs, "--json", tmp_path / "fused.json")
    assert result.returncode == 0, result.stderr
    ((title, rows),) = json.loads((tmp_path / "fused.json").read_text()).items()
    assert title.startswith("cdnn small, folds 1, 2, 16 clips") and title in result.stdout
    assert len(rows) == 7 and all(row["prod"]["n"] == 16 for row in rows)
    assert "p1_gam + p1_logmel + p1_mfcc" in result.stdout
    across = fuse.tables(fuse.load_results([typed / "crnn", typed / "joint", typed / "lf"]), across=True)
    ((_, rows),) = across.items()
    assert rows[-1]["members"] == ["crnn small p1_logmel", "joint small p1_logmel", "vgg small LF p2_logmel64+p2_gam"]


def test_the_table_of_all_systems(typed, tmp_path):
    runs = [typed / name for name in ("crnn", "joint", "ef-spsmt", "lf", "spsmf", "cdnn-p1_mfcc-2")]
    result = run("train.compare", *runs, "--json", tmp_path / "t.json", "--plot", tmp_path / "t.png")
    assert result.returncode == 0, result.stderr
    rows = {row["system"]: row for row in json.loads((tmp_path / "t.json").read_text())}
    assert set(rows) == {
        "crnn small", "joint small", "tinyvgg small EF SPSMT", "vgg small LF", "tinyvgg small SPSMF 2", "cdnn small"
    }  # fmt: skip
    for name, row in rows.items():
        assert name in result.stdout and f"{row['parameters']:,}" in result.stdout
    assert rows["joint small"]["macs"] > rows["crnn small"]["macs"] > 0
    assert rows["tinyvgg small EF SPSMT"]["patch_s"] == pytest.approx(59 * 1120 / 44100)
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "name, kwargs, words",
    [
        ("cnn7", {"widths": [16, 32, 32, 32, 64, 64], "order": "paper"}, "cnn7 cr"),
        ("cnn7", {"widths": [4] * 6}, "cnn7 widths=[4,4,4,4,4,4] order=deploy"),
        ("learned", {"net": "lstm", "heads": 4, "sr": 16000}, "learned urban8k heads=4"),
        ("attentive", {"late": False, "bands": [40, 40], "n_features": 2}, "attentive late=False"),
        (
            "strategies",
            {"net": "tinyvgg", "kwargs": {"width": 0.25, "bands": [16, 16]}, "frame_decisions": True},
            "tinyvgg small EF SPSMT",
        ),
    ],
)
def test_systems_are_named_by_shape_and_what_was_set(name, kwargs, words):
    """Two runs of one shape with another --set are no twins in one table."""
    kwargs = json.loads(json.dumps(MODELS[name](4, **kwargs).kwargs))
    assert results._system_name(name, kwargs) == words


def test_macs_by_hand():
    net = CNN7(10).eval()
    assert compare.macs(net, (3, 64, 32)) == graph_macs(graph_of(net, (3, 64, 32)))
    crnn, frames = CRNN(10), 20
    convolutions = 4 * frames * (1 * 32 * 128 + 32 * 64 * 64 + 64 * 128 * 32 + 128 * 256 * 16)
    gru = frames * 2 * 3 * 64 * (256 + 64)
    assert compare.macs(crnn, (1, frames, 128)) == convolutions + gru + 128 * 512 + 512 * 1024 + 1024 * 10
    assert crnn.training  # as it was
    net = MODELS["learned"](10, bank="mel", heads=0, sr=4000, n_filters=8, net="lstm", n_channels=4, n_lstm=6)
    lstm = frames * 4 * 6 * (4 * 8 + 6 + 6 + 6)  # gates, two layers: the input and the state of each
    assert compare.macs(net, (1, frames + 8, 64)) == 3 * 25 * 4 * frames * 8 + lstm + 6 * 6 + 6 * 10


def copy_of(folder, to):
    to.mkdir()
    for name in ("meta.json", scores.PREDICTIONS):
        (to / name).write_bytes((folder / name).read_bytes())
    return to


def test_runs_that_do_not_belong_in_one_table(typed, tmp_path):
    a, b = typed / "cdnn-p1_logmel-1", typed / "cdnn-p1_gam-2"
    with pytest.raises(ValueError, match=r"folds \[1\].*add the rest"):
        fuse.tables(fuse.load_results([a, b]))
    with pytest.raises(ValueError, match="nothing to fuse"):
        fuse.tables(fuse.load_results([a]))
    with pytest.raises(ValueError, match="same system on fold 1: name one"):
        fuse.load_results([a, copy_of(a, tmp_path / "twin")])
    other = copy_of(a, tmp_path / "other")
    meta = json.loads((other / "meta.json").read_text())
    (other / "meta.json").write_text(json.dumps({**meta, "labels": ["cat", "dog"]}))
    with pytest.raises(ValueError, match="other classes"):
        fuse.load_results([b, other])
    clips, truth, log_p = scores.load_predictions(b)
    moved = copy_of(typed / "cdnn-p1_mfcc-2", tmp_path / "moved")
    with open(moved / scores.PREDICTIONS, "wb") as file:
        np.savez(file, clips=np.array(clips[::-1]), truth=truth, log_p=log_p)
    with pytest.raises(ValueError, match="different clips"):
        fuse.tables(fuse.load_results([b, moved]))


@pytest.mark.parametrize("damage", ["nothing", "half", "pickle", "shapes", "infinite", "labels", "meta", "model"])
def test_damaged_results_are_refused_by_name(typed, tmp_path, damage):
    folder = copy_of(typed / "crnn", tmp_path / "run")
    path, meta = folder / scores.PREDICTIONS, json.loads((folder / "meta.json").read_text())
    good = dict(clips=np.array(["a", "b"]), truth=np.array([0, 1]), log_p=np.log([[0.5, 0.5], [0.5, 0.5]]))
    bad = {
        "pickle": {"clips": np.array([{}, {}], dtype=object)}, "shapes": {"truth": np.array([0])},
        "infinite": {"log_p": np.full((2, 2), np.nan)}, "labels": {"truth": np.array([0, 2])},
    }  # fmt: skip
    if damage == "nothing":
        path.unlink()
    elif damage == "half":
        path.write_bytes(path.read_bytes()[:100])
    elif damage in bad:
        with open(path, "wb") as file:
            np.savez(file, **{**good, **bad[damage]})
    else:
        changed = {"meta": {"data": None}, "model": {"model": "os.system"}}[damage]
        (folder / "meta.json").write_text(json.dumps({**meta, **changed}))
    with pytest.raises(ValueError, match=r"predictions|meta") as caught:
        fuse.load_results([folder])
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "args, words",
    [
        (["cdnn", "--frontend", "p1_gam", "--shape", "cr"], "comes as full, small"),
        (["cdnn", "--frontend", "p1_gam", "--frontend", "p1_stft"], "hears one spectrogram, not 2"),
        (["vgg", "--frontend", "p2_gam", "--frontend", "p2_logmel"], "--fusion late"),
        (["vgg", "--frontend", "p2_gam", "--frontend", "p1_gam"], "the same, see --hop-length"),
        (["vgg", "--frontend", "p2_gam", "--fusion", "late"], "repeat --frontend"),
        (["vgg", "--frontend", "p2_gam", "--frontend", "p2_cqt", "--sub-bands", "2"], "one --frontend"),
        (["cnn7", "--frontend", "mel", "--sub-bands", "0"], "n_sub_bands 0"),
        (["cnn7", "--frontend", "mel", "--sub-bands", "65"], "n_sub_bands 65"),
        (["tinyvgg", "--frontend", "p2_gam", "--sub-bands", "33", "--epochs", "1"], "choose more frames or bands"),
        (["tinyvgg", "--frontend", "p2_gam", "--patch-frames", "16", "--epochs", "1"], "choose more frames or bands"),
        (["cdnn", "--frontend", "p1_gam", "--weight-decay", "nan"], "weight_decay nan"),
    ],
)
def test_senseless_systems_train_nothing(sounds, cache, tmp_path, args, words):
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=words):
        main([*args, "--data", str(sounds), "--cache", str(cache), "--hop-length", "1120", "--out", str(out)]
             if "the same" not in words else [*args, "--data", str(sounds), "--out", str(out)])  # fmt: skip
    assert not (out / "model.safetensors").exists()
