"""What a bundle's deployed files say about labelled clips, kept in pieces: a call that was killed goes on where it was."""

import hashlib
import json
import sys
import time
from pathlib import Path

import numpy as np

from runtime import audio
from runtime.bundle import Bundle
from runtime.files import read_json
from train.data import DataError, check_heard, split
from train.features import features, load_array, save_array
from train.results import load_results

PIECE = 100  # clips of one kept file
SHOW_S = 2.0  # progress on standard error, so often


def held_out_fold(bundle, dataset, fold=None):
    """-> the fold of `dataset` that the bundle's nets did not hear: `fold` if given, else what its provenance says.

    Raises DataError where it says none, or the fold held other clips then: nets would be scored on what they know.
    """
    if fold is not None:
        return fold
    trained_on = _trained_on(bundle)
    if trained_on is None:
        raise DataError(
            f"{bundle.folder} held no fold out: train one with compress.cnn7 --fold K, or name a fold with --fold"
        )
    name, own = trained_on
    if name != dataset.name:
        raise DataError(
            f"{bundle.folder} was trained on {name}, not {dataset.name}: say with --fold what it has not heard"
        )
    for facts in bundle.provenance["runs"].values():
        check_heard(facts["data"], dataset, own, bundle.folder)
    return own


def _trained_on(bundle):
    """-> name of the data set, fold that all nets held out; None where the provenance says neither."""
    runs = bundle.provenance.get("runs") if isinstance(bundle.provenance, dict) else None
    runs = list(runs.values()) if isinstance(runs, dict) else []
    facts = [run["data"] for run in runs if isinstance(run, dict) and isinstance(run.get("data"), dict)]
    said = [(data.get("name"), data.get("fold")) for data in facts]
    if not said or len(said) < len(runs) or any(one != said[0] for one in said) or not said[0][1]:
        return None
    return said[0]


def is_held_out(bundle, dataset, fold):
    """Whether the bundle's provenance says that its nets never heard this fold of this data set."""
    try:
        return held_out_fold(bundle, dataset) == fold
    except DataError:
        return False


def test_clips(bundle, dataset, fold):
    """-> the fold's test clips. Raises DataError for other classes than the bundle's, or a fold that tests nothing."""
    if dataset.labels != bundle.labels:
        raise DataError(
            f"{bundle.folder} knows {', '.join(bundle.labels)[:80]}; {dataset.name} holds {', '.join(dataset.labels)[:80]}"
        )
    clips = split(dataset, fold)[1]
    if not clips:
        raise DataError(f"fold {fold} of {dataset.name} tests nothing: choose some of {dataset.folds}")
    return clips


def n_looped(clips, frontend, n_static):
    """-> how many of the clips have fewer frames than one patch needs, and are repeated therefore."""
    heads = [audio.header(clip.path) for clip in clips]
    return sum(frontend.n_frames(head.n_frames * frontend.sr // head.sr) < n_static for head in heads)


def from_features(bundle, clips, cache):
    """-> a function of one of the clips: its spectrogram for each member, (bands, frames), from the cache of features."""
    for member in bundle.members:
        features(clips, member.frontend, cache)  # what is not there yet, with its progress
    return lambda clip: [features([clip], member.frontend, cache)[0] for member in bundle.members]


def of_folds(folders, like, dataset, cache):
    """Every fold through the nets that held it out, by their files and in float, all clips together.

    folders: {fold: bundle, its runs beside it}, as compress.folds leaves them. like: a Bundle, of whose format and nets
    they must be. -> {"truth", "groups", "folds": (clips,), "members": names, "bytes": of the largest bundle's files,
    "int8" and "float": {member, or the fusion in capitals: (clips, classes)}}. Raises ValueError.
    """
    names, parts, n_bytes = [member.name for member in like.members], [], 0
    for fold, folder in folders.items():
        one = Bundle.load(folder, like.format)
        if held_out_fold(one, dataset) != fold:
            raise ValueError(f"{folder} did not hold fold {fold} out: train it with compress.folds")
        own = [member.name for member in one.members]
        if own != names:
            raise ValueError(f"{folder} has the nets {own}, {like.folder} has {names}")
        _check_own(one, folder.parent)
        clips = test_clips(one, dataset, fold)
        hear, title = from_features(one, clips, cache), f"{folder.parents[1].name} fold {fold}:"
        int8 = log_probabilities(one, clips, hear, "as recorded", cache, title)
        results = load_results([folder.parent / name for name in names], dataset, cache)
        for result in results:
            if list(result.clips) != [clip.path.name for clip in clips]:
                raise ValueError(f"{result.folder} was scored on other clips than fold {fold} holds: train it anew")
        exact = np.stack([result.log_p for result in results])
        parts.append((clips, int8, exact, fused(one, int8), fused(one, exact)))
        n_bytes = max(n_bytes, sum(member.files[one.format]["bytes"] for member in one.members))
    clips = [clip for part in parts for clip in part[0]]

    def nets(of_members, together):
        members = np.concatenate([part[of_members] for part in parts], axis=1)
        return dict(zip(names, members)) | {like.fuse.upper(): np.concatenate([part[together] for part in parts])}

    return {
        "truth": np.array([dataset.labels.index(clip.label) for clip in clips]),
        "groups": np.array([clip.group for clip in clips]),
        "folds": np.concatenate([np.full(len(part[0]), fold) for fold, part in zip(folders, parts)]),
        "members": names,
        "bytes": n_bytes,
        "int8": nets(1, 3),
        "float": nets(2, 4),
    }


def _check_own(bundle, runs):
    """Raises ValueError where a fold's bundle was made of other nets than lie beside it, or knows what judges it."""
    for member in bundle.members:
        stated, run = bundle.provenance["runs"][member.name], read_json(runs / member.name / "meta.json")
        # what was stated then must still be so; a run that was resumed since may state more
        facts = [(stated.get(part, {}), run.get(part, {})) for part in ("data", "recipe")]
        if any(then[key] != now.get(key) for then, now in facts for key in then):
            raise ValueError(
                f"{bundle.folder} was not made of {runs / member.name}: call compress.folds again, it trains and exports"
            )
        if member.temperature != 1:
            raise ValueError(f"{bundle.folder}: its temperatures know the clips that judge it, export it again")


def log_probabilities(bundle, clips, spectrograms_of, condition, keep, title=""):
    """-> (members, clips, classes): log of the mean probability over each clip's patches, by the deployed files.

    spectrograms_of: a function of a clip -> (bands, frames) per member; too short for a patch, they are repeated.
    condition: JSON-able, what that function does to a clip. keep: folder of finished pieces, named by bundle, clips and
    condition. Progress on standard error.
    """
    keep = Path(keep)
    keep.mkdir(parents=True, exist_ok=True)
    pieces, shown, started = [], 0.0, time.monotonic()
    for start in range(0, len(clips), PIECE):
        some = clips[start : start + PIECE]
        path = keep / f"{_key(bundle, some, condition)}.scores.npy"
        piece = load_array(path, (len(bundle.members), len(some), len(bundle.labels)))
        if piece is None:
            rows = []
            for i, clip in enumerate(some, start + 1):
                rows.append([member.clip_log_p(s) for member, s in zip(bundle.members, spectrograms_of(clip))])
                if time.monotonic() - shown > SHOW_S:
                    shown = time.monotonic()
                    print(
                        f"\r{title} {i} of {len(clips)} clips, {shown - started:.0f} s ",
                        end="",
                        file=sys.stderr,
                        flush=True,
                    )
            piece = np.array(rows).transpose(1, 0, 2)
            save_array(path, piece)
        pieces.append(piece)
    if shown:
        print(file=sys.stderr)
    return np.concatenate(pieces, axis=1)


def fused(bundle, log_p):
    """(members, clips, classes) -> (clips, classes), as the bundle fuses them."""
    return np.stack([bundle.fused(list(log_p[:, i])) for i in range(log_p.shape[1])])


def _key(bundle, clips, condition):
    """Changes with the bundle's files and settings, each clip's place, size and time of change, and the condition."""
    settings = hashlib.sha256((bundle.folder / "bundle.json").read_bytes()).hexdigest()  # the files' own are in it
    stats = [(str(clip.path.resolve()), clip.path.stat().st_size, clip.path.stat().st_mtime_ns) for clip in clips]
    return hashlib.sha256(json.dumps([settings, bundle.format, stats, condition]).encode()).hexdigest()[:32]
