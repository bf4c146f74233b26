"""train: from recordings to a run, killed and resumed, cached, scored and drawn; and the commands' clear errors."""

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from runtime.files import write_atomic
from runtime.frontend import MEL
from runtime.patches import deltas, patches
from tests.conftest import PROC, SR, children, is_alive, run, wait_until
from train import augment, features, scores, spectrograms, teachers, trainer, waves
from train.data import Clip, load_dataset, split
from train.features import PatchShape
from train.items import Grid, due, goals
from train.loop import _follow, _optimizer, _set_lr, clip_log_probabilities, fit
from train.recipe import Recipe
from train.run import Run, load_run


def command(sounds, cache, out, epochs=20):
    return [
        "train", "cnn7", "--frontend", "mel", "--shape", "cr+dc", "--data", sounds, "--fold", 2, "--patch-frames", 32,
        "--epochs", epochs, "--batch-size", 4, "--lr", 0.003, "--average", 0.8, "--vary-every", 3, "--threads", 1,
        "--cache", cache, "--out", out,
    ]  # fmt: skip


@pytest.fixture(scope="session")
def finished(sounds, cache, tmp_path_factory):
    """A run that nobody disturbed, and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    result = run(*command(sounds, cache, out))
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def test_it_learns_and_says_so(finished):
    out, printed = finished
    meta = json.loads((out / "meta.json").read_text())
    assert meta["scores"]["last"]["accuracy"] == 1.0 and meta["scores"]["last"]["n"] == 8
    assert [row["epoch"] for row in meta["history"]] == list(range(1, 21))
    assert meta["history"][-1]["loss"] < meta["history"][0]["loss"]
    assert "accuracy 100.0% of 8 clips" in printed and "hum 100%, pulses 100%" in printed
    for name in ("confusion.png", "curves.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_last_and_best_epoch_are_kept_apart(finished):
    out, _ = finished
    meta = json.loads((out / "meta.json").read_text())
    best = meta["scores"]["best_on_test_fold"]
    assert best["accuracy"] == max(row["accuracy"] for row in meta["history"] if "accuracy" in row)
    first_best = load_run(out, "best.safetensors").model.state_dict()
    last = load_run(out).model.state_dict()
    same = all(torch.equal(first_best[key], last[key]) for key in last)
    assert same == (best["epoch"] == 20)


@pytest.mark.skipif(not os.path.isdir(PROC), reason="processes are counted in /proc, which this system lacks")
def test_killed_and_resumed_ends_with_the_same_numbers(sounds, finished, tmp_path):
    """Also with other processes to make spectrograms and variations, which end with the one that is killed."""
    whole, _ = finished
    out, cache = tmp_path / "killed", tmp_path / "cache"
    args = [sys.executable, "-m", *map(str, command(sounds, cache, out)), "--workers", "2"]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch 3/"):
                workers = children(process.pid)
                os.kill(process.pid, signal.SIGKILL)
                break
    assert process.wait() == -signal.SIGKILL and not (out / "model.safetensors").exists()
    assert len(workers) == 3  # two, and multiprocessing's resource tracker
    wait_until(lambda: not any(map(is_alive, workers)))
    result = run(*command(sounds, cache, out), "--workers", 1)
    assert result.returncode == 0 and "resumed after epoch" in result.stdout
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (out, whole))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    first, second = (json.loads((folder / "meta.json").read_text()) for folder in (out, whole))
    assert first["history"] == second["history"] and first["scores"] == second["scores"]


def test_two_processes_share_every_batch_and_learn(sounds, cache, tmp_path):
    result = run(*command(sounds, cache, tmp_path), "--batch-size", 8, "--accelerator", "cpu", "--devices", 2)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("epoch 20/20") == 1  # one of them speaks
    assert json.loads((tmp_path / "meta.json").read_text())["scores"]["last"]["accuracy"] == 1.0


def test_a_finished_run_is_not_trained_again_and_another_recipe_starts_anew(sounds, cache, finished, tmp_path):
    out, _ = finished
    before = (out / "model.safetensors").read_bytes()
    again = run(*command(sounds, cache, out))
    assert "resumed after epoch 20" in again.stdout and "epoch 20/20" not in again.stdout
    assert (out / "model.safetensors").read_bytes() == before
    other = tmp_path / "other"
    assert run(*command(sounds, cache, other, epochs=1)).returncode == 0
    more = run(*command(sounds, cache, other, epochs=2))
    assert "starting anew" in more.stderr and "epoch 1/2" in more.stdout


def test_a_teacher_is_known_by_its_weights(sounds, cache, finished, tmp_path, capsys):
    """Wherever it lies; one that was trained on in its place teaches anew."""
    run = load_run(finished[0])
    kwargs = {name: value for name, value in run.model.kwargs.items() if name != "n_classes"}
    recipe = dataclasses.replace(Recipe(**run.meta["recipe"]), epochs=1)

    def taught_by(teacher):
        said = []
        args = "cnn7", kwargs, run.frontend, run.patch, sounds, 2, recipe, tmp_path / "student"
        trainer.train(*args, teachers=[teacher], cache=cache, say=said.append)
        return said

    assert taught_by(finished[0])[0].startswith("epoch 1/1")
    shutil.copytree(finished[0], tmp_path / "teacher")
    assert taught_by(tmp_path / "teacher") == ["resumed after epoch 1"] and "anew" not in capsys.readouterr().err
    with torch.no_grad():
        run.model.fc.bias += 1
    run.save(tmp_path / "teacher")
    assert taught_by(tmp_path / "teacher")[0].startswith("epoch 1/1") and "starting anew" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"nobody is not a finished training run: model\.safetensors is missing"):
        taught_by(tmp_path / "nobody")


def test_a_teacher_is_asked_once(sounds, cache, finished, tmp_path):
    """The product of two teachers, as they say it; kept beside the features, and made anew where it was damaged."""
    dataset, kept = load_dataset(sounds), tmp_path / "cache"
    teacher = load_run(finished[0])
    fold = teacher.meta["data"]["fold"]
    clips, _ = split(dataset, fold)
    said = clip_log_probabilities(teacher, features.features(clips, teacher.frontend, cache))
    with torch.no_grad():
        teacher.model.fc.bias += torch.tensor([1.0, -1.0])
    teacher.save(tmp_path / "other")
    other = clip_log_probabilities(teacher, features.features(clips, teacher.frontend, cache))
    product = np.exp((said + other) / 2)
    product /= product.sum(1, keepdims=True)
    paths = [finished[0], tmp_path / "other"]

    def opinions():
        return np.exp(teachers.opinions(paths, dataset, fold, kept))

    assert opinions() == pytest.approx(product, abs=1e-5)
    files = list(kept.glob("*.opinion.npy"))
    assert len(files) == 2
    for path in files:
        np.save(path, np.log(np.full(product.shape, 0.5)))
    assert opinions() == pytest.approx(0.5)  # nobody was asked
    for damage in (lambda data: data[:50], lambda data: b"PK" + data[2:], lambda data: data[:20] + b"{" + data[21:]):
        for path in files:
            path.write_bytes(damage(path.read_bytes()))
        assert opinions() == pytest.approx(product, abs=1e-5)
    for other in (np.array(1.0), np.full(product.shape, np.nan), product[1:], product.astype(str)):
        for path in files:
            np.save(path, other)
        assert opinions() == pytest.approx(product, abs=1e-5)
    assert teachers.opinions([], dataset, fold, kept) is None


def test_a_teacher_that_heard_other_clips_is_refused(sounds, finished, tmp_path):
    """Another fold, or the same fold of other recordings: it could tell what is tested. Where nothing is, any will do."""
    dataset = load_dataset(sounds)
    fold = load_run(finished[0]).meta["data"]["fold"]
    moved = dataclasses.replace(dataset.clips[0], fold=3 - dataset.clips[0].fold)
    for told, held_out in (
        (dataset, 3 - fold),
        (dataclasses.replace(dataset, clips=dataset.clips[1:]), fold),
        (dataclasses.replace(dataset, clips=(moved, *dataset.clips[1:])), fold),
    ):
        with pytest.raises(ValueError, match=f"held out fold {fold} of .* as it was then, not fold {held_out}"):
            teachers.load_teachers([finished[0]], told, held_out)
        assert teachers.load_teachers([finished[0]], told, 0)
    shutil.copytree(finished[0], tmp_path / "run")
    meta = json.loads((tmp_path / "run" / "meta.json").read_text())
    for data in (None, "esc10", [1]):
        (tmp_path / "run" / "meta.json").write_text(json.dumps({**meta, "data": data}))
        with pytest.raises(ValueError, match="is damaged: data is"):
            teachers.load_teachers([tmp_path / "run"], dataset, fold)


def test_another_certainty_is_scored_and_not_trained(sounds, cache, finished, tmp_path):
    """No weight depends on how the opinions on a clip's patches become one; its probabilities do."""
    shutil.copytree(finished[0], tmp_path / "run")
    before, said = load_run(finished[0]), []
    patch = dataclasses.replace(before.patch, certainty=8.0)
    recipe = Recipe(**before.meta["recipe"])
    kwargs = {name: value for name, value in before.model.kwargs.items() if name != "n_classes"}
    args = "cnn7", kwargs, before.frontend, patch, sounds, 2, recipe, tmp_path / "run"
    trainer.train(*args, cache=cache, say=said.append)
    after = load_run(tmp_path / "run")
    assert said[0] == "resumed after epoch 20" and after.patch == patch
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (finished[0] / "model.safetensors").read_bytes()
    long = np.concatenate(features.features(load_dataset(sounds).clips, after.frontend, cache), axis=1)
    with torch.no_grad():
        p = after.model.eval()(torch.from_numpy(after.normalise(patch.cut(long)))).softmax(1).numpy()
    weights = np.array([sum(q * np.log(2 * max(q, 1e-12)) for q in row) for row in p.astype(float)]) ** 8
    alike, weighed = (np.exp(clip_log_probabilities(run, [long])[0]) for run in (before, after))
    assert weighed == pytest.approx(weights @ p / weights.sum(), abs=1e-6)
    assert alike == pytest.approx(p.mean(0), abs=1e-6)
    assert np.abs(weighed - alike).max() > 1e-3


def test_a_training_stopped_in_a_used_folder_leaves_the_older_net_whole(sounds, cache, finished, tmp_path):
    """Its settings and its weights belong together, or it would be exported as what it is not."""
    shutil.copytree(finished[0], tmp_path / "run")
    before = load_run(finished[0])
    kwargs = {name: value for name, value in before.model.kwargs.items() if name != "n_classes"}
    recipe = dataclasses.replace(Recipe(**before.meta["recipe"]), seed=7)

    def stop(line):
        if line.startswith("epoch 3/"):  # the best epoch so far has been kept by then
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.train(
            "cnn7", kwargs, before.frontend, before.patch, sounds, 1, recipe, tmp_path / "run", cache=cache, say=stop
        )
    best = (tmp_path / "run" / "best.safetensors").read_bytes()
    assert best != (finished[0] / "best.safetensors").read_bytes()
    for name in ("meta.json", "model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (finished[0] / name).read_bytes()


def test_damaged_runs_are_refused_by_name(finished, tmp_path):
    out, _ = finished
    with pytest.raises(ValueError, match=r"meta\.json is missing"):
        load_run(tmp_path)
    for name in ("meta.json", "model.safetensors"):
        for other in ("meta.json", "model.safetensors"):
            (tmp_path / other).write_bytes((out / other).read_bytes())
        (tmp_path / name).write_bytes((out / name).read_bytes()[:50])
        with pytest.raises(ValueError, match="damaged"):
            load_run(tmp_path)


def test_bad_arguments_end_in_one_line(sounds, cache, tmp_path):
    for data, fold, sentence in (
        (tmp_path, 1, "no data set"),
        (sounds, 9, "no fold 9"),
        (tmp_path / "no", 1, "missing"),
    ):
        args = command(data, cache, tmp_path / "out")
        args[args.index("--fold") + 1] = fold
        result = run(*args)
        assert result.returncode == 1 and sentence in result.stderr, result.stderr
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_one_class_is_nothing_to_tell_apart(cache, tmp_path):
    (tmp_path / "data" / "hum").mkdir(parents=True)
    for i in range(5):
        soundfile.write(tmp_path / "data" / "hum" / f"{i}.wav", np.full(SR, 0.01 * (i + 1)), SR)
    result = run(*command(tmp_path / "data", cache, tmp_path / "out"))
    assert result.returncode == 1 and "one class (hum)" in result.stderr


TAU_HEADER = "filename\tscene_label\tidentifier\tsource_label\r\n"


def test_tau_layout_from_recordings_to_accuracy_per_device(cache, tmp_path):
    """Real layout: tabs, CRLF, no last newline, 1 s clips with a sub-segment in their names, clips of no half."""
    root = tmp_path / "tau"
    (root / "audio").mkdir(parents=True)
    (root / "evaluation_setup").mkdir()
    meta, halves = [], {"train": [], "evaluate": []}
    rng = np.random.default_rng(1)
    for scene, hz in (("metro", 200.0), ("park", 4000.0)):
        for i, device in enumerate(("a", "a", "b", "s1", "a", "s1")):
            name = f"audio/{scene}-lyon-1-{i}-0-{device}.wav"
            t = np.arange(SR) / SR
            soundfile.write(root / name, 0.2 * np.sin(2 * np.pi * hz * t) + 0.02 * rng.standard_normal(SR), SR)
            meta.append(f"{name}\t{scene}\tlyon-{i}\t{device}")
            if i < 5:
                halves["train" if i < 3 else "evaluate"].append(f"{name}\t{scene}")
    (root / "meta.csv").write_bytes((TAU_HEADER + "\r\n".join(meta)).encode())
    for half, rows in halves.items():
        table = "filename\tscene_label\n" + "\n".join(rows)
        (root / "evaluation_setup" / f"fold1_{half}.csv").write_text(table)
    args = command(root, cache, tmp_path / "run", epochs=4)
    args[args.index("--fold") + 1] = 1
    result = run(*args)
    assert result.returncode == 0, result.stderr
    last = json.loads((tmp_path / "run" / "meta.json").read_text())["scores"]["last"]
    assert last["n"] == 4 and set(last["per_device"]) == {"a", "s1"}
    assert "per device: a " in result.stdout


def test_features_are_cached_by_front_end_and_file(sounds, tmp_path):
    clips = load_dataset(sounds).clips[:2]
    first = features.features(clips, MEL, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 2 and all(name.endswith(".npy") for name in names)
    again = features.features(clips, MEL, tmp_path)
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    features.features(clips, dataclasses.replace(MEL, hop_length=1120), tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    os.utime(clips[0].path, ns=(1, 1))  # another recording under the same name
    features.features(clips, MEL, tmp_path)
    assert len(list(tmp_path.iterdir())) == 5


def test_statistics_are_those_of_all_planes_at_once_in_a_part_of_the_memory():
    rng = np.random.default_rng(0)
    for planes, order in itertools.product(("deltas", "static", "stacked"), "CF"):
        patch = PatchShape(planes=planes)
        planes_of = patch.planes_of
        statics = [np.asarray(rng.normal(-40, 20, (100, n)), np.float32, order) for n in rng.integers(200, 400, 30)]
        whole = np.concatenate([planes_of(static) for static in statics], axis=2)
        mean, std = whole.mean(axis=2, dtype=np.float64).astype(np.float32), whole.std(axis=2)
        if planes == "deltas":
            mean[2] -= std[2] * np.linspace(-features.POSITION, features.POSITION, 100, dtype=np.float32)
        tracemalloc.start()
        ours = features.normalisation(statics, patch)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert np.array_equal(ours[0], mean) and np.array_equal(ours[1], std)  # runs are known by their last bit
        assert peak < whole.nbytes


def test_a_grid_holds_every_patch_of_every_looped_clip():
    patch, rng = PatchShape(16, 8, "static"), np.random.default_rng(0)
    statics = [rng.normal(size=(2, n)).astype(np.float32) for n in (5, 16, 23, 40)]
    grid = Grid(statics, patch)
    whole = [np.concatenate([statics[0]] * 4, axis=1), *statics[1:]]
    expected = [s[:, i : i + 16] for s in whole for i in range(0, s.shape[1] - 15, 8)]
    assert grid.clips == [0, 1, 2, 3, 3, 3, 3] and len(grid) == len(expected)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(grid, expected))


def test_scores_by_hand():
    labels = ("a", "b")
    clips = [Clip(None, label, 1, "", device) for label, device in (("a", "x"), ("a", "y"), ("b", "y"))]
    p = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    result = scores.score(np.log(p), clips, labels)
    assert result["accuracy"] == pytest.approx(2 / 3)
    assert result["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.8]).mean())
    assert result["per_class"] == {"a": 0.5, "b": 1.0} and result["per_device"] == {"x": 1.0, "y": 0.5}
    assert result["confusion"] == [[1, 1], [0, 1]]


def test_crops_hold_the_sound():
    """A second of noise in ten of silence: every crop hears some of it."""
    static = torch.full((8, 400), -100.0)
    static[:, 150:190] = torch.randn(8, 40) - 20
    torch.manual_seed(0)
    crops = augment.random_crops([static] * 200, 100)
    assert crops.shape == (200, 8, 100) and (crops.amax((1, 2)) > -50).all()
    starts = {int((crop[0] > -50).nonzero()[0]) for crop in crops}
    assert len(starts) > 30  # and from many places


def test_planes_are_the_device_s_deltas_and_patches():
    static = torch.randn(3, 16, 40 + 8)
    planes = augment.planes_of(static)
    for one, expected in zip(planes, static.numpy()):
        assert one.numpy() == pytest.approx(patches(deltas(expected), 40, 40)[0], abs=1e-5)


def test_mixup_keeps_the_larger_share_of_its_own():
    torch.manual_seed(0)
    x, target = torch.eye(6).reshape(6, 6, 1, 1), torch.eye(6)
    mixed, soft = augment.mixup(x, target, 0.3)
    assert (soft.argmax(1) == torch.arange(6)).all() and soft.sum(1) == pytest.approx(1)
    assert torch.allclose(mixed[:, :, 0, 0], soft)  # sound and label are mixed alike


def test_between_class_is_two_recordings_played_at_once():
    """Noises, whose powers add: mixed in dB as the samples are. The louder is turned down to where the shares say."""
    rng = np.random.default_rng(0)
    waves = torch.from_numpy(rng.normal(size=(2, 1, 400_000)) * [[[1.0]], [[0.1]]])
    target = torch.eye(2, dtype=torch.float64)

    def level_db(x):  # of 40 stretches: samples in dB as one band of a spectrogram
        return 10 * torch.log10(x.reshape(len(x), 1, 40, -1).square().mean(3))

    torch.manual_seed(1)
    heard, soft = augment.between_class(waves, target, raw=True)
    torch.manual_seed(1)
    mixed, same = augment.between_class(level_db(waves), target)
    assert torch.equal(soft, same) and soft.sum(1) == pytest.approx(1) and 0.05 < soft[0, 0] < 0.95
    assert float((mixed - level_db(heard)).abs().mean()) < 0.3
    # one sound of each band: what is left of either, against its share
    bands = torch.full((2, 2, 5), -100.0)
    bands[0, 0], bands[1, 1] = 0.0, -20.0
    torch.manual_seed(1)
    mixed, soft = augment.between_class(bands, target.float())
    difference_db = mixed[:, 0, 0] - mixed[:, 1, 0]
    assert difference_db.numpy() == pytest.approx((20 * torch.log10(soft[:, 0] / soft[:, 1])).numpy(), abs=0.01)


def test_between_class_of_silence_is_finite():
    static = torch.full((3, 4, 6), -100.0)
    static[1] = -10.0
    mixed, soft = augment.between_class(static, torch.eye(3))
    assert mixed.isfinite().all() and soft.isfinite().all()


def test_rolled_patches_keep_their_order():
    torch.manual_seed(0)
    static = torch.arange(40.0).view(2, 2, 10)
    for before, after in zip(static, augment.random_roll(static)):
        shift = int((after[0, 0] - before[0, 0]).item())
        assert torch.equal(after, before.roll(-shift, dims=1))


def test_mixstyle_mixes_statistics_and_leaves_the_rest():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 50, 6) * torch.rand(4, 3, 1, 6) * 5 + torch.randn(4, 3, 1, 6)
    torch.manual_seed(1)
    y = augment.freq_mixstyle(x)
    for before, after in zip(x, y):
        shape = [(patch - patch.mean(1, keepdim=True)) / patch.std(1, keepdim=True) for patch in (before, after)]
        torch.testing.assert_close(*shape, atol=1e-3, rtol=1e-3)
    means, own = y.mean(2), x.mean(2)
    low, high = own.amin(0) - 1e-4, own.amax(0) + 1e-4
    assert ((means >= low) & (means <= high)).all() and not torch.allclose(means, own, atol=1e-2)


def test_spec_augment_masks_at_most_what_it_says():
    torch.manual_seed(0)
    masked = augment.spec_augment(torch.ones(50, 3, 40, 30), 8, 5) == 0
    frames, bands = masked[:, 0, :, :].all(2).sum(1), masked[:, 0, :, :].all(1).sum(1)
    assert frames.max() == 8 and bands.max() == 5 and frames.min() == bands.min() == 0
    assert (masked == masked[:, :1]).all()  # all planes alike


def test_a_teacher_changes_what_is_learned(small_runs, tmp_path):
    """Labels say one thing, the teacher the opposite: at full weight the net follows the teacher."""
    base = small_runs[0]
    statics = [np.full((128, 140), level, np.float32) + np.random.default_rng(i).normal(0, 1, (128, 140)).astype("f4")
               for i, level in enumerate([-60, -20] * 6)]  # fmt: skip
    targets = [i % 2 for i in range(12)]

    def opposite(raw):
        loud = raw[:, 0].mean((1, 2)) > -40
        return torch.stack([loud * 9.0, ~loud * 9.0], dim=1)

    said = np.array([[0.0, 9.0], [9.0, 0.0]] * 6, np.float32)  # the opposite too, of whole clips
    wrong = []
    for name, taught in (("labels", {}), ("teacher", {"teacher": opposite}), ("opinions", {"opinions": said})):
        torch.manual_seed(0)
        model = type(base.model)(2, widths=[4, 8, 8, 8, 8, 8], decomposed=True)
        student = dataclasses.replace(base, model=model, labels=("quiet", "loud"), patch=PatchShape())
        recipe = Recipe(epochs=25, lr=0.01, batch_size=4, gain_db=0, mixup_alpha=0, distill=1.0, weight_decay=0)
        fit(student, statics, targets, recipe, tmp_path / name, **taught, say=lambda line: None)
        wrong.append(int((clip_log_probabilities(student, statics).argmax(1) != targets).sum()))
    assert wrong == [0, 12, 12]


def level(level_db, rng):
    return rng.normal(level_db, 1, (64, 60)).astype("f4")


def small_net(small_runs):
    """An untrained run of (64, 60) spectrograms, of two classes."""
    torch.manual_seed(0)
    mean, std = (np.repeat(np.array(rows, "f4")[:, None], 64, axis=1) for rows in ([-40, 0, 0], [20, 2, 0.5]))
    frontend = dataclasses.replace(small_runs[0].frontend, n_bands=64)
    model = type(small_runs[0].model)(2, widths=[4, 8, 8, 8, 8, 8], decomposed=True, order="deploy")
    return Run("cnn7", model, frontend, PatchShape(32, 8), ("quiet", "loud"), mean, std, {})


def test_noise_leaves_a_net_in_doubt(small_runs, tmp_path):
    """Quiet sounds and loud ones; noise, louder still, is surely one of them unless the net is taught otherwise."""
    rng = np.random.default_rng(0)
    sounds, noises = [level(db, rng) for db in [-70, -40] * 6], [level(-10, rng) for _ in range(6)]
    surest, right = {}, {}
    for share in (0.0, 0.5):
        run = small_net(small_runs)
        recipe = Recipe(epochs=30, lr=0.01, batch_size=4, gain_db=0, mixup_alpha=0, noise_share=share)
        fit(run, sounds, [0, 1] * 6, recipe, tmp_path / str(share), noises=lambda: noises, say=lambda line: None)
        surest[share] = np.exp(clip_log_probabilities(run, [level(-10, rng) for _ in range(4)])).max()
        right[share] = (clip_log_probabilities(run, sounds).argmax(1) == np.arange(12) % 2).all()
    assert right == {0.0: True, 0.5: True} and surest[0.5] < 0.75 < 0.9 < surest[0.0], surest
    with pytest.raises(ValueError, match=r"noise_share 0\.5 of no noises: give some"):
        fit(run, sounds, [0, 1] * 6, recipe, tmp_path / "none", say=lambda line: None)


@pytest.mark.parametrize("how", [{}, {"crops": "grid"}, {"oversample": True}], ids=str)
def test_training_with_noises_goes_on_where_it_was(small_runs, tmp_path, how):
    """The same numbers; what is finished makes no noises."""
    rng = np.random.default_rng(1)
    sounds, noises = [level(db, rng) for db in [-70, -40, -70] * 4], [level(-10, rng) for _ in range(5)]
    recipe = Recipe(epochs=3, batch_size=4, noise_share=0.5, **how)

    def trained(name, say=lambda line: None, make=lambda: noises):
        run = small_net(small_runs)
        history = fit(run, sounds, [0, 1, 0] * 4, recipe, tmp_path / name, noises=make, say=say)
        return history, run.model.state_dict()

    def stop(line):
        if line.startswith("epoch 2/"):
            raise KeyboardInterrupt

    whole = trained("whole")
    with pytest.raises(KeyboardInterrupt):
        trained("stopped", stop)
    again = trained("stopped")
    assert again[0] == whole[0] and all(torch.equal(again[1][key], whole[1][key]) for key in whole[1])
    assert trained("stopped", make=lambda: pytest.fail("made anew"))[0] == whole[0]


@pytest.mark.parametrize("damage", ["weights", "history", "cut"])
def test_a_checkpoint_of_another_version_is_named(small_runs, tmp_path, damage):
    run, sounds = small_net(small_runs), [level(-40, np.random.default_rng(i)) for i in range(6)]
    recipe = Recipe(epochs=1, batch_size=4)
    fit(run, sounds, [0, 1] * 3, recipe, tmp_path, say=lambda line: None)
    path = tmp_path / "checkpoint.safetensors"
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        header = file.metadata()
    if damage == "weights":
        tensors = {key: value for key, value in tensors.items() if "fc" not in key}
    elif damage == "history":
        del header["history"]
    else:
        header["history"] = header["history"][:-3]
    save_file(tensors, path, header)
    with pytest.raises(ValueError, match=r"(?s)checkpoint\.safetensors is damaged .* delete it to start anew"):
        fit(small_net(small_runs), sounds, [0, 1] * 3, recipe, tmp_path, say=lambda line: None)


def test_dollars_in_a_classes_name_are_no_mathematics(tmp_path):
    table = {"confusion": [[3, 1], [0, 4]], "accuracy": 7 / 8, "n": 8}
    scores.plot_confusion(tmp_path / "c.png", table, ("price $_$ alarm", "dog"))
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_other_statistics_are_another_training(small_runs, tmp_path):
    """Recordings that were replaced under the same names: old weights behind new statistics would hear nonsense."""
    rng, said = np.random.default_rng(1), []
    sounds = [level(db, rng) for db in [-70, -40] * 6]
    for moved in (0, 0, 5):
        run = small_net(small_runs)
        run = dataclasses.replace(run, mean=run.mean + np.float32(moved))
        fit(run, sounds, [0, 1] * 6, Recipe(epochs=1, batch_size=4), tmp_path, say=said.append)
    assert [line.partition("  ")[0] for line in said] == ["epoch 1/1", "resumed after epoch 1", "epoch 1/1"]


@pytest.mark.parametrize("n_recordings, n", [(3, 12), (500, trainer.N_NOISES)])
def test_few_recordings_take_few_noises_and_each_is_another(monkeypatch, n_recordings, n):
    monkeypatch.setattr(waves, "noise_spectrogram", lambda frontend, seed: seed)
    recipe = Recipe(seed=5, noise_share=0.25)
    made = trainer.made_noises(MEL, recipe, n_recordings)
    assert made == [(5, i) for i in range(n)] and trainer.made_noises(MEL, Recipe(), 9) == []
    assert trainer.made_noises(MEL, recipe, n_recordings, lambda work, calls: [work(*c) for c in calls]) == made


def test_what_a_net_should_answer_to_noise():
    """Every class alike, what teachers say of it too; of several labels none."""
    alone = goals(torch.tensor([1, 0]), None, 1, 2, 2.0)
    assert alone.tolist() == [[0, 1], [1, 0], [0.5, 0.5]]
    taught = goals(torch.tensor([1, 0]), torch.tensor([[9.0, 9.0], [500.0, -500.0]]), 1, 2, 2.0)
    assert taught.tolist() == [[0, 1, 0.5, 0.5], [1, 0, 1, 0], [0.5, 0.5, 0.5, 0.5]]
    assert goals(torch.tensor([[1, 1], [0, 1]]), None, 1, 2, 2.0).tolist() == [[1, 1], [0, 1], [0, 0]]


def test_the_average_follows_weights_and_statistics():
    """After n steps of constant weights w the average is what n steps of a first-order filter make of it."""
    torch.manual_seed(0)
    kept, model = torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    model.weight.data, model.running_mean = torch.full((3,), 5.0), torch.full((3,), -2.0)
    model.num_batches_tracked += 7
    for _ in range(4):
        _follow(kept, model, 0.75)
    np.testing.assert_allclose(kept.weight.detach(), 5 - 4 * 0.75**4, rtol=1e-6)
    np.testing.assert_allclose(kept.running_mean, -2 * (1 - 0.75**4), rtol=1e-6)
    assert kept.num_batches_tracked == 7


def test_bfloat16_learns_what_float32_learns(sounds, cache, tmp_path):
    result = run(*command(sounds, cache, tmp_path), "--precision", "bfloat16")
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "meta.json").read_text())["scores"]["last"]["accuracy"] == 1.0
    assert all(value.dtype != torch.bfloat16 for value in load_file(tmp_path / "model.safetensors").values())


def test_warm_restarts_fall_and_begin_anew():
    recipe = Recipe(lr=0.1, schedule="restarts", optimizer="sgd")
    optimizer = _optimizer(torch.nn.Linear(1, 1), recipe)
    lr = [_set_lr(optimizer, recipe, epoch, 100) for epoch in range(70)]
    assert [epoch for epoch in range(70) if lr[epoch] == 0.1] == [0, 10, 30]
    assert all(lr[e] > lr[e + 1] for e in range(69) if e + 1 not in (10, 30))
    assert optimizer.param_groups[0]["lr"] == lr[-1] and optimizer.param_groups[0]["momentum"] == 0.9


def test_each_recording_varies_in_its_turn():
    recipe = Recipe(epochs=6, vary_every=3)
    turns = [due(5, epoch, recipe) for epoch in range(7)]
    assert turns == [[], [(2, 1)], [(1, 1), (4, 1)], [(0, 1), (3, 1)], [(2, 2)], [(1, 2), (4, 2)], []]
    for epoch in range(6):  # a training that goes on here has what one that was never stopped has
        heard = dict(pair for turn in turns[: epoch + 1] for pair in turn)
        assert dict(due(5, epoch, recipe, all_of_them=True)) == heard
    assert due(5, 6, recipe, all_of_them=True) == [] == due(5, 3, Recipe(epochs=6))


def test_write_atomic_leaves_the_old_file_when_the_new_one_fails(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(partial):
        partial.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_atomic(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_spectrogram_pictures(sounds, small_bundle, tmp_path):
    clips = sorted((sounds / "audio").glob("*.wav"))[:4]
    picture = tmp_path / "out.png"
    result = run("train.spectrograms", *clips, "--plot", picture, "--bundle", small_bundle)
    assert result.returncode == 0, result.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="--bundle takes no --frontend"):
        spectrograms.main([str(clips[0]), "--plot", str(picture), "--bundle", str(small_bundle), "--frontend", "mel"])
    short = run("train.spectrograms", clips[0], "--plot", tmp_path / "no.png", "--bundle", small_bundle)
    assert short.returncode == 1 and "too short for a decision" in short.stderr and not (tmp_path / "no.png").exists()


def test_a_flat_clip_can_be_cropped():
    """The mean of equal numbers can be rounded above them."""
    flat = torch.full((8, 140), -33.3)
    flat[0] = -0.1
    for n in range(100, 140):
        assert augment.random_crops([flat[:, :n]], 90).shape == (1, 8, 90)


@pytest.mark.parametrize(
    "option, value", [("--epochs", 0), ("--batch-size", 0), ("--lr", "nan"), ("--seed", 2**40), ("--mixup", -1),
                      ("--stride", 0), ("--patch-frames", 1), ("--threads", 0)],
)  # fmt: skip
def test_senseless_arguments_train_nothing(sounds, cache, tmp_path, option, value, capsys):
    from train.__main__ import main

    args = ["cnn7", "--frontend", "mel", "--data", str(sounds), "--cache", str(cache), "--out", str(tmp_path / "o")]
    with pytest.raises(ValueError, match="choose"):
        main([*args, option, str(value)])
    assert not (tmp_path / "o").exists()


def test_damaged_caches_and_checkpoints(sounds, cache, tmp_path):
    clips = load_dataset(sounds).clips[:1]
    first = features.features(clips, MEL, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"")
    assert np.array_equal(features.features(clips, MEL, tmp_path)[0], first[0])  # computed again
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"half")
    result = run(*command(sounds, cache, tmp_path / "run", epochs=1))
    assert result.returncode == 1 and "delete it to start anew" in result.stderr


def test_cycles_begin_anew():
    """A training of two cycles passes through the end of one of half the length."""
    net = torch.nn.Linear(2, 2)
    rates = []
    for recipe in (Recipe(epochs=10), Recipe(epochs=20, cycles=2)):
        optimizer = _optimizer(net, recipe)
        rates.append([_set_lr(optimizer, recipe, epoch, 100) for epoch in range(recipe.epochs)])
    assert rates[1][:10] == rates[0] and rates[1][10] == Recipe().lr and rates[1][11:] == rates[0][1:]
    with pytest.raises(ValueError, match="20 epochs are not 3 cycles"):
        Recipe(epochs=20, cycles=3)
