"""The published data sets in their real layouts, written here in miniature, and what an incomplete one says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_data import esc, touch
from train import tagging
from train.data import DataError, load_dataset, split
from train.tagging import equal_error_rate, load_tagged, split_tagged

URBAN_HEADER = "slice_file_name,fsID,start,end,salience,fold,classID,class"


def urban(root):
    """UrbanSound8K: two recordings a fold, cut into slices; rows as in the real table."""
    rows = [URBAN_HEADER]
    for fold in range(1, 11):
        for class_id, name in ((3, "dog_bark"), (8, "siren")):
            for piece in range(2):
                file = f"{1000 * fold + class_id}-{class_id}-0-{piece}.wav"
                rows.append(
                    f"{file},{1000 * fold + class_id},{piece * 0.5},{piece * 0.5 + 4},1,{fold},{class_id},{name}"
                )
                touch(root / "audio" / f"fold{fold}" / file)
    touch(root / "metadata" / "UrbanSound8K.csv", "\n".join(rows).encode())
    return root


SCENES = ("beach", "cafe/restaurant")  # TUT 2016 writes a slash in a label


def tut(root, year):
    """TUT Acoustic Scenes 2016 or 2017: 4 folds, no headers; 2017 names each row's recording in a third column."""
    step = {2016: 30, 2017: 10}[year]
    rows, folds = [], {fold: [] for fold in range(1, 5)}
    for i in range(16):
        scene, recording = SCENES[i % 2], f"{'ab'[year - 2016]}{i:03d}"
        for start in (0, step):
            name = f"audio/{recording}_{start}_{start + step}.wav"
            rows.append(f"{name}\t{scene}" + (f"\t{recording}" if year == 2017 else ""))
            folds[1 + i // 4].append(f"{name}\t{scene}")
            touch(root / name)
    touch(root / "meta.txt", "\r\n".join(rows).encode())
    for fold in folds:
        train = [row for k, part in folds.items() if k != fold for row in part]
        touch(root / "evaluation_setup" / f"fold{fold}_train.txt", "\n".join(train).encode() + b"\n")
        touch(root / "evaluation_setup" / f"fold{fold}_evaluate.txt", "\n".join(folds[fold]).encode())
        touch(
            root / "evaluation_setup" / f"fold{fold}_test.txt",
            b"\n".join(r.split("\t")[0].encode() for r in folds[fold]),
        )
    return root


def tut_2018(root):
    """TUT Urban Acoustic Scenes 2018 Mobile: a header in meta.csv, none in the lists, which end in .txt."""
    names = [
        f"audio/{scene}-{place}-{i}-a.wav\t{scene}\t{place}\ta"
        for scene in ("airport", "bus")
        for place in ("helsinki-1", "lyon-2")
        for i in range(2)
    ]
    names.append("audio/bus-lyon-2-9-b.wav\tbus\tlyon-2\tb")
    touch(root / "meta.csv", ("filename\tscene_label\tidentifier\tsource_label\n" + "\n".join(names)).encode())
    for part, place in (("train", "helsinki-1"), ("evaluate", "lyon-2")):
        rows = ["\t".join(name.split("\t")[:2]) for name in names if place in name]
        touch(root / "evaluation_setup" / f"fold1_{part}.txt", "\n".join(rows).encode())
    for name in names:
        touch(root / name.split("\t")[0])
    return root


def litis(root):
    """LITIS Rouen: scenes in French and English with hyphens, examples by number, 20 folds printed as floats."""
    names = [f"{scene}{i}.wav" for scene in ("avion", "metro-paris", "train-ter") for i in range(1, 6)]
    touch(root / "relation_wav_examples.txt", "\n".join(f"{n} {i}" for i, n in enumerate(names, 1)).encode())
    for part in ("Learn", "Test"):
        lines = []
        for fold in range(20):
            tested = [1 + 5 * k + fold % 5 for k in range(3)]
            chosen = tested if part == "Test" else [i for i in range(1, 16) if i not in tested]
            lines.append(" ".join(f"{i:.7e}" for i in chosen))
        touch(root / f"fold3026-matrices_{part}.txt", "\n".join(lines).encode() + b"\n")
    for name in names:
        touch(root / "data_rouen" / name)
    return root


def chime(root, n_chunks=4):
    """CHiME-Home: 5 folds and an evaluation set of 5-minute segments in chunks, two of three annotators' votes."""
    rows = {tagging.DEVELOPMENT: [], tagging.EVALUATION: []}
    for segment in range(6):
        for chunk in range(n_chunks):
            name = f"CR_lounge_200110_1601.s{300 * segment}_chunk{chunk}"
            vote = ("cm", "v", "S", "bo")[chunk % 4]
            notes = f"annotation_a1,{vote}\nannotation_a2,\nsession_a1,1.0\nframestart,0\nmajorityvote,{vote}\n"
            touch(root / "chunks" / f"{name}.csv", f"segmentname,CR_lounge\nchunknumber,{chunk}\n{notes}".encode())
            for rate in ("16kHz", "48kHz"):
                touch(root / "chunks" / f"{name}.{rate}.wav")
            table = tagging.EVALUATION if segment == 5 else tagging.DEVELOPMENT
            rows[table].append(f"{len(rows[table])},{name}" + (f",{segment}" if segment < 5 else ""))
    for table, lines in rows.items():
        touch(root / table, "\n".join(lines).encode() + b"\n")
    return root


LAYOUTS = {
    "ESC-50": (esc, (1, 2, 3), ("dog", "rain")),
    "UrbanSound8K": (urban, tuple(range(1, 11)), ("dog_bark", "siren")),
    "TUT 2016": (lambda root: tut(root, 2016), (1, 2, 3, 4), SCENES),
    "TUT 2017": (lambda root: tut(root, 2017), (1, 2, 3, 4), SCENES),
    "TUT 2018": (tut_2018, (1,), ("airport", "bus")),
    "LITIS Rouen": (litis, tuple(range(1, 21)), ("avion", "metro-paris", "train-ter")),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_recognised_and_its_groups_stay_together(tmp_path, name):
    write, folds, labels = LAYOUTS[name]
    dataset = load_dataset(write(tmp_path))
    assert dataset.folds == folds and dataset.labels == labels
    for fold in folds:
        train, test = split(dataset, fold)
        assert train and test and not {clip.path for clip in train} & {clip.path for clip in test}
        assert not {clip.group for clip in train} & {clip.group for clip in test}
        assert {clip.label for clip in train} == set(labels)


def test_urban_sound_groups_by_freesound_recording(tmp_path):
    dataset = load_dataset(urban(tmp_path))
    assert len(dataset.clips) == 40 and dataset.name == "UrbanSound8K"
    _, test = split(dataset, 7)
    assert {clip.group for clip in test} == {"7003", "7008"}
    assert {clip.path.parent.name for clip in test} == {"fold7"}


@pytest.mark.parametrize("year", [2016, 2017])
def test_tut_groups_by_original_recording(tmp_path, year):
    dataset = load_dataset(tut(tmp_path, year))
    assert len(dataset.clips) == 32 and len({clip.group for clip in dataset.clips}) == 16
    train, test = split(dataset, 3)
    letter = "ab"[year - 2016]
    assert (len(train), len(test)) == (24, 8) and {clip.group for clip in test} == {
        f"{letter}{i:03d}" for i in range(8, 12)
    }


def test_a_tab_at_the_end_of_a_line_is_no_value(tmp_path):
    table = tut(tmp_path, 2016) / "evaluation_setup" / "fold1_train.txt"
    table.write_text(table.read_text().replace("\n", "\t\n"))
    assert len(split(load_dataset(tmp_path), 1)[0]) == 24


def test_tut_2018_knows_the_devices(tmp_path):
    _, test = split(load_dataset(tut_2018(tmp_path)), 1)
    assert [clip.device for clip in test] == ["a"] * 4 + ["b"] and {clip.group for clip in test} == {"lyon-2"}


def test_litis_folds_repeat_their_clips(tmp_path):
    """Twenty trainings and tests: unlike numbered folds a clip is tested in several."""
    dataset = load_dataset(litis(tmp_path))
    assert sum(len(split(dataset, fold)[1]) for fold in dataset.folds) == 20 * 3 > len(dataset.clips)
    assert [clip.path.name for clip in split(dataset, 1)[1]] == ["avion1.wav", "metro-paris1.wav", "train-ter1.wav"]


def test_chime_home_is_its_own_thing(tmp_path):
    with pytest.raises(DataError, match=r"CHiME-Home.*several labels.*python -m train\.tags"):
        load_dataset(chime(tmp_path))
    dataset = load_tagged(tmp_path)
    assert dataset.folds == (0, 1, 2, 3, 4, 5) and len(dataset.labels) == 7
    assert dataset.clips[0].tags == {"child speech", "adult male speech"} and dataset.clips[2].tags == set()
    assert dataset.clips[0].path.name == "CR_lounge_200110_1601.s0_chunk0.16kHz.wav"
    for fold in dataset.folds:
        train, test = split_tagged(dataset, fold)
        assert not {clip.group for clip in train} & {clip.group for clip in test}
        assert (len(train), len(test)) == ((20, 4) if fold == 0 else (16, 4))
    targets = tagging.targets(list(dataset.clips[:4]), dataset.labels)
    np.testing.assert_array_equal(targets.sum(1), [2, 1, 0, 2])
    assert load_tagged(tmp_path, "48kHz").clips[0].path.name.endswith(".48kHz.wav")


BROKEN = {
    "no fold lists": ("TUT 2017", "evaluation_setup", r"holds no fold1_train.*zenodo.org/record/400515"),
    "no evaluate list": ("TUT 2016", "evaluation_setup/fold2_evaluate.txt", r"fold2_evaluate.txt cannot be read"),
    "no table": ("TUT 2016", "meta.txt", r"no meta.csv or meta.txt.*zenodo.org/record/45739"),
    "no lists of litis": (
        "LITIS Rouen",
        "fold3026-matrices_Test.txt",
        r"no fold3026-matrices_Test.txt: fetch it.*http",
    ),
    "no numbers": ("LITIS Rouen", "relation_wav_examples.txt", "no relation_wav_examples.txt: fetch it"),
    "no audio": ("LITIS Rouen", "data_rouen/avion2.wav", r"1 of 15 files are missing, .*avion2.wav first: fetch.*http"),
    "no fold of audio": ("UrbanSound8K", "audio/fold3", r"4 of 40 files are missing.*urbansounddataset"),
    "no urban table": ("UrbanSound8K", "metadata", r"holds audio/ and no table.*UrbanSound8K: http"),
    "no esc table": ("ESC-50", "meta", r"holds audio/ and no table.*ESC: http"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_incomplete_set_says_what_is_missing_and_where_it_comes_from(tmp_path, name):
    layout, gone, sentence = BROKEN[name]
    path = LAYOUTS[layout][0](tmp_path) / gone
    if path.is_dir():
        for file in path.rglob("*"):
            file.unlink()
        path.rmdir()
    else:
        path.unlink()
    with pytest.raises(DataError, match=sentence) as error:
        load_dataset(tmp_path)
    assert "\n" not in str(error.value)


CHANGED = {
    "fold 11": ("UrbanSound8K", "metadata/UrbanSound8K.csv", ",1,10,3,", ",1,11,3,", "fold 11 of 10003-3-0-0.wav"),
    "split recording": ("UrbanSound8K", "metadata/UrbanSound8K.csv", "1003-3-0-1.wav,1003", "1003-3-0-1.wav,2003",
                        "parts of recording 2003 lie in folds 1 and 2"),
    "split source": ("ESC-50", "meta/esc50.csv", "2-102-A-0.wav,2,0,dog,True,102", "2-102-A-0.wav,2,0,dog,True,101",
                     "parts of recording 101 lie in folds 1 and 2"),
    "columns": ("TUT 2016", "meta.txt", "\t", ",", r"meta.txt line 1: want 2 to 3 values .*by tabs"),
    "no scene": ("TUT 2016", "meta.txt", "a000_0_30.wav\tbeach", "a000_0_30.wav\t", "meta.txt line 1: want 2 to 3 values"),
    "both halves": ("TUT 2017", "evaluation_setup/fold1_train.txt", "b004_0_10", "b000_0_10", "listed twice in fold 1"),
    "not a number": ("LITIS Rouen", "fold3026-matrices_Test.txt", "1.0000000e+00", "one", r"Test.txt line 1: .*'one'"),
    "no such number": ("LITIS Rouen", "fold3026-matrices_Test.txt", "1.0000000e+00", "99", r"Test.txt line 1: 99 is no"),
    "infinite": ("LITIS Rouen", "fold3026-matrices_Test.txt", "1.0000000e+00", "inf", "Test.txt line 1: .*infinity"),
    "both parts": ("LITIS Rouen", "fold3026-matrices_Test.txt", "1.0000000e+00", "2.0", "trains on avion2.wav and tests it"),
    "outside": ("LITIS Rouen", "relation_wav_examples.txt", "avion1.wav", "../avion1.wav", "points outside"),
    "no label": ("LITIS Rouen", "relation_wav_examples.txt", "avion1.wav", "1.wav", "line 1: .*is not a scene's file"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_table_is_named_with_its_value(tmp_path, name):
    layout, table, old, new, sentence = CHANGED[name]
    path = LAYOUTS[layout][0](tmp_path) / table
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=sentence):
        load_dataset(tmp_path)


def test_broken_chime_home(tmp_path):
    root = chime(tmp_path)
    notes = root / "chunks" / "CR_lounge_200110_1601.s0_chunk0.csv"
    for text, sentence in (
        ("majorityvote,xyz\n", "majorityvote is .'xyz'.*want some of cmfvpbo"),
        ("a,b\n", "majorityvote is"),
    ):
        notes.write_text(text)
        with pytest.raises(DataError, match=sentence):
            load_tagged(root)
    notes.unlink()
    with pytest.raises(DataError, match=r"s0_chunk0.csv cannot be read"):
        load_tagged(root)
    (chime(tmp_path) / "chunks" / "CR_lounge_200110_1601.s300_chunk1.16kHz.wav").unlink()
    with pytest.raises(
        DataError, match=r"1 of 24 chunks are missing, .*s300_chunk1.16kHz.wav first: fetch.*archive.org"
    ):
        load_tagged(root)
    with pytest.raises(DataError, match=r"neither development_chunks.*archive.org"):
        load_tagged(tmp_path / "chunks")


def test_equal_error_rate_by_hand():
    truth = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    assert equal_error_rate(np.arange(8.0), truth) == 0
    assert equal_error_rate(-np.arange(8.0), truth) == 1
    assert equal_error_rate(np.array([0, 1, 2, 5, 3, 6, 7, 8.0]), truth) == 0.25  # one of four on either side
    assert equal_error_rate(np.ones(8), truth) == 0.5  # nothing is told apart
    assert np.isnan(equal_error_rate(np.arange(8.0), np.ones(8)))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=30))
def test_equal_error_rate_lies_on_the_curve_of_scikit_learn(pairs):
    metrics = pytest.importorskip("sklearn.metrics")
    scores, truth = (np.array(column) for column in zip(*pairs))
    if truth.all() or not truth.any():
        return
    alarms, hits, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
    rate = equal_error_rate(scores, truth)
    grid = np.linspace(0, 1, 100_001)  # along the curve, joined by lines
    along = np.linspace(0, 1, len(alarms))
    x, y = np.interp(grid, along, alarms), np.interp(grid, along, 1 - hits)
    assert rate == pytest.approx(x[np.argmin(abs(x - y))], abs=1e-3)


def test_rates_of_several_labels():
    scores = np.array([[0.9, 0.2], [0.1, 0.8]])
    rates = tagging.equal_error_rates(scores, np.array([[1, 1], [0, 1]]), ("a", "b"))
    assert rates["a"] == 0 and np.isnan(rates["b"]) and rates["mean"] == 0
