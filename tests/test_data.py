"""Data sets in their real layouts, written here row by row, and what a broken one says."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from train import data, tables
from train.data import DataError, inner_split, load_dataset, load_wave, split

ESC_HEADER = "filename,fold,target,category,esc10,src_file,take"
ESC_ROWS = [f"{fold}-{100 + fold}-{take}-{target}.wav,{fold},{target},{category},True,{100 + fold},{take}"
            for fold in (1, 2, 3) for target, category in ((0, "dog"), (10, "rain")) for take in "AB"]  # fmt: skip


def touch(path: Path, content: bytes = b"x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def esc(root: Path, rows=ESC_ROWS, header=ESC_HEADER, audio=True) -> Path:
    touch(root / "meta" / "esc50.csv", "\n".join([header, *rows]).encode())
    for row in rows if audio else []:
        touch(root / "audio" / row.split(",")[0])
    return root


# rows of the real development sets: 2020 with a line end after the last row, 2022 without, CRLF as in the 2020 tables
TAU_2020 = {
    "meta.csv": "filename\tscene_label\tidentifier\tsource_label\n"
    "audio/airport-barcelona-0-0-a.wav\tairport\tbarcelona-0\ta\n"
    "audio/airport-barcelona-0-1-a.wav\tairport\tbarcelona-0\ta\n"
    "audio/bus-lyon-1001-40001-s1.wav\tbus\tlyon-1001\ts1\n"
    "audio/airport-barcelona-203-6129-b.wav\tairport\tbarcelona-203\tb\n"
    "audio/bus-lyon-1008-40251-s4.wav\tbus\tlyon-1008\ts4\n",
    "evaluation_setup/fold1_train.csv": "filename\tscene_label\r\naudio/airport-barcelona-0-0-a.wav\tairport\r\n"
    "audio/bus-lyon-1001-40001-s1.wav\tbus\r\n",
    "evaluation_setup/fold1_evaluate.csv": "filename\tscene_label\naudio/airport-barcelona-203-6129-b.wav\tairport\n"
    "audio/bus-lyon-1008-40251-s4.wav\tbus",
    "evaluation_setup/fold1_test.csv": "filename\naudio/airport-barcelona-203-6129-b.wav\n",
}
TAU_2022 = {
    "meta.csv": "filename\tscene_label\tidentifier\tsource_label\n"
    "audio/airport-lisbon-1000-40000-0-a.wav\tairport\tlisbon-1000\ta\n"
    "audio/airport-lisbon-1000-40000-1-a.wav\tairport\tlisbon-1000\ta\n"
    "audio/bus-lyon-1001-40001-0-s1.wav\tbus\tlyon-1001\ts1\n"
    "audio/airport-barcelona-203-6129-0-a.wav\tairport\tbarcelona-203\ta",
    "evaluation_setup/fold1_train.csv": "filename\tscene_label\naudio/airport-lisbon-1000-40000-0-a.wav\tairport\n"
    "audio/airport-lisbon-1000-40000-1-a.wav\tairport\naudio/bus-lyon-1001-40001-0-s1.wav\tbus",
    "evaluation_setup/fold1_evaluate.csv": "filename\tscene_label\naudio/airport-barcelona-203-6129-0-a.wav\tairport",
}


def tau(root: Path, tables: dict[str, str], **changed: str) -> Path:
    for name, text in tables.items():
        touch(root / name, changed.get(Path(name).stem, text).encode())
    for line in tables["meta.csv"].splitlines()[1:]:
        touch(root / line.split("\t")[0])
    return root


def folders(root: Path, n_clips: int = 10, labels=("cat", "dog")) -> Path:
    for label in labels:
        for number in range(n_clips):
            touch(root / label / f"{number}.wav", f"{label} {number}".encode())
    return root


def test_esc_layout(tmp_path):
    dataset = load_dataset(esc(tmp_path))
    assert dataset.name == "esc50" and dataset.labels == ("dog", "rain") and dataset.folds == (1, 2, 3)
    assert len(dataset.clips) == 12
    first = dataset.clips[0]
    assert first == data.Clip(tmp_path / "audio" / "1-101-A-0.wav", "dog", 1, "101", "")


def test_esc_fold_tests_itself_and_trains_on_the_others(tmp_path):
    dataset = load_dataset(esc(tmp_path))
    train, test = split(dataset, 2)
    assert {clip.fold for clip in test} == {2} and {clip.fold for clip in train} == {1, 3}
    assert len(train) + len(test) == 12
    assert not {clip.group for clip in train} & {clip.group for clip in test}


@pytest.mark.parametrize("fold", [None, 0])
def test_no_fold_trains_on_everything(tmp_path, fold):
    train, test = split(load_dataset(esc(tmp_path)), fold)
    assert len(train) == 12 and test == []


def test_pack_names_its_groups_clip_id(tmp_path):
    rows = ["1-7-A-0.ogg,1,0,dog,7", "1-7-B-1.flac,1,1,rooster,7"]
    dataset = load_dataset(esc(tmp_path, rows, "filename,fold,target,category,clip_id"))
    assert [clip.group for clip in dataset.clips] == ["7", "7"]


def test_tau_2020_layout(tmp_path):
    dataset = load_dataset(tau(tmp_path / "TAU-2020", TAU_2020))
    assert dataset.name == "TAU-2020" and dataset.labels == ("airport", "bus") and dataset.folds == (1,)
    assert [clip.device for clip in dataset.clips] == ["a", "a", "s1", "b", "s4"]
    assert dataset.clips[2].group == "lyon-1001"
    train, test = split(dataset, 1)
    assert [clip.path.name for clip in train] == ["airport-barcelona-0-0-a.wav", "bus-lyon-1001-40001-s1.wav"]
    assert [clip.path.name for clip in test] == ["airport-barcelona-203-6129-b.wav", "bus-lyon-1008-40251-s4.wav"]
    assert len(split(dataset, 0)[0]) == 5  # the clip in neither half is a recording all the same


def test_tau_2022_layout(tmp_path):
    dataset = load_dataset(tau(tmp_path, TAU_2022))
    train, test = split(dataset, 1)
    assert len(train) == 3 and len(test) == 1
    assert {clip.group for clip in train} == {"lisbon-1000", "lyon-1001"}  # from meta.csv: the name has one part more


def test_folder_per_class(tmp_path):
    root = folders(tmp_path / "mine")
    touch(root / "dog" / "sub" / "deep.MP3")
    touch(root / "dog" / "._0.wav")  # what macOS leaves behind
    touch(root / "dog" / "notes.txt")
    touch(root / ".git" / "x.wav")
    dataset = load_dataset(root)
    assert dataset.name == "mine" and dataset.labels == ("cat", "dog") and dataset.folds == (1, 2, 3, 4, 5)
    assert len(dataset.clips) == 21 and {clip.fold for clip in dataset.clips} == {None}


def test_folder_folds_are_stratified_disjoint_and_complete(tmp_path):
    dataset = load_dataset(folders(tmp_path, n_clips=13))
    tested = []
    for fold in dataset.folds:
        train, test = split(dataset, fold)
        assert len(train) + len(test) == 26
        assert {label: sum(c.label == label for c in test) in (2, 3) for label in dataset.labels} == dict(cat=1, dog=1)
        tested += test
    assert sorted(clip.path for clip in tested) == sorted(clip.path for clip in dataset.clips)


def test_folder_folds_follow_the_sound_not_the_name(tmp_path):
    names = [{clip.group for clip in split(load_dataset(folders(tmp_path / str(n))), 3)[1]} for n in range(2)]
    assert names[0] == names[1]


def test_copies_stay_on_one_side(tmp_path):
    root = folders(tmp_path)
    for number in range(10):
        touch(root / "dog" / f"copy of {number}.wav", f"dog {number}".encode())
        touch(root / "cat" / f"mistaken {number}.wav", f"dog {number}".encode())
    dataset = load_dataset(root)
    for fold in dataset.folds:
        train, test = split(dataset, fold)
        assert test and not {clip.group for clip in train} & {clip.group for clip in test}


def test_split_refuses_folds_that_are_not_there(tmp_path):
    dataset = load_dataset(esc(tmp_path))
    for fold in (4, -1):
        with pytest.raises(DataError, match=f"no fold {fold}: choose one of 1, 2, 3"):
            split(dataset, fold)


def test_split_refuses_to_leave_a_class_untaught(tmp_path):
    root = folders(tmp_path)
    touch(root / "owl" / "only.wav")
    with pytest.raises(DataError, match="leaves no owl to train on"):
        for fold in range(1, 6):
            split(load_dataset(root), fold)


GROUPS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), min_size=8, max_size=40)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(GROUPS, st.integers(2, 4), st.integers(0, 3), st.randoms())
def test_inner_parts_are_disjoint_complete_and_keep_groups_together(groups, n_parts, seed, random):
    """Groups: label and number of clips. As even as whole groups allow: no part of a class leads by more than a group."""
    clips = [data.Clip(Path(f"{g}-{take}.wav"), label, None, str(g)) for g, (label, n) in enumerate(groups)
             for take in range(n)]  # fmt: skip
    random.shuffle(clips)
    labels = {label for label, _ in groups}
    if any([label for label, _ in groups].count(label) < n_parts for label in labels):
        return  # too few groups: refused, or a part without a class
    parts = [inner_split(clips, part, n_parts, seed) for part in range(1, n_parts + 1)]
    assert sorted(clip.path for _, valid in parts for clip in valid) == sorted(clip.path for clip in clips)
    for train, valid in parts:
        assert sorted([*train, *valid], key=clips.index) == clips
        assert not {clip.group for clip in train} & {clip.group for clip in valid}
    for label in labels:
        counts = [sum(clip.label == label for clip in valid) for _, valid in parts]
        assert max(counts) - min(counts) <= max(n for other, n in groups if other == label)
        assert min(counts) >= 1
    again = [inner_split(clips[::-1], part, n_parts, seed) for part in range(1, n_parts + 1)]
    assert [set(valid) for _, valid in again] == [set(valid) for _, valid in parts]  # whatever the order on disk


def test_inner_split_of_tau_keeps_places_together(tmp_path):
    clips = load_dataset(tau(tmp_path, TAU_2020)).clips
    for part in (1, 2):
        train, valid = inner_split(clips, part, 2)
        assert train and valid and not {clip.group for clip in train} & {clip.group for clip in valid}
    assert {clip.group for clip in clips if clip.label == "airport"} == {"barcelona-0", "barcelona-203"}


def test_inner_split_refuses_what_cannot_be_validated():
    one = [data.Clip(Path(f"{i}.wav"), label, None, group) for i, (label, group) in enumerate(["aA", "aB", "bC", "bC"])]
    with pytest.raises(DataError, match="b comes from one original"):
        inner_split(one, 1, 2)
    with pytest.raises(DataError, match="part 0 of 4"):
        inner_split(one, 0)
    with pytest.raises(DataError, match="4 originals do not make 5 parts"):
        inner_split([data.Clip(Path(f"{i}.wav"), "a", None, str(i)) for i in range(4)], 5, 5)


BAD_ESC = {
    "column": (ESC_ROWS, ESC_HEADER.replace("category", "kind"), r"esc50.csv has no column 'category'"),
    "tabs": ([row.replace(",", "\t") for row in ESC_ROWS], ESC_HEADER.replace(",", "\t"), "by commas"),
    "fold 0": (["a.wav,0,0,dog"], "filename,fold,target,category", "fold '0' of a.wav"),
    "fold x": (["a.wav,x,0,dog"], "filename,fold,target,category", "fold 'x' of a.wav"),
    "no label": (["a.wav,1,0,"], "filename,fold,target,category", "line 2: no category"),
    "short row": (["a.wav,1"], "filename,fold,target,category", "line 2: no target"),
    "long row": (["a.wav,1,0,dog,more"], "filename,fold,target,category", "more values than columns"),
    "no rows": ([], ESC_HEADER, "lists nothing"),
    "nothing": ([], "", "no column 'filename'"),
    "twice": ([ESC_ROWS[0], *ESC_ROWS], ESC_HEADER, r"lists 1-101-A-0.wav 2 times"),
    "field of a megabyte": (['"' + "x" * 2**20], ESC_HEADER, "is no table"),
}


@pytest.mark.parametrize("name", BAD_ESC)
def test_broken_tables_say_so(tmp_path, name):
    rows, header, sentence = BAD_ESC[name]
    esc(tmp_path, rows, header, audio=False)
    for row in rows if name == "twice" else []:
        touch(tmp_path / "audio" / row.split(",")[0])
    with pytest.raises(DataError, match=sentence):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    "name", ["../x.wav", "/etc/passwd", "a/../../x.wav", "..\\x.wav", "C:\\x.wav", "\\\\host\\x.wav"]
)
def test_tables_cannot_point_outside(tmp_path, name):
    esc(tmp_path / "set", [f"{name},1,0,dog"], "filename,fold,target,category", audio=False)
    with pytest.raises(DataError, match="points outside"):
        load_dataset(tmp_path / "set")


def test_missing_audio_is_named_and_counted(tmp_path):
    root = esc(tmp_path)
    for name in ("1-101-B-0.wav", "3-103-A-10.wav"):
        (root / "audio" / name).unlink()
    with pytest.raises(DataError, match=r"2 of 12 files are missing, .*1-101-B-0.wav first"):
        load_dataset(root)


def test_encodings(tmp_path):
    root = esc(tmp_path)
    table = root / "meta" / "esc50.csv"
    text = table.read_text()
    table.write_bytes(b"\xef\xbb\xbf" + text.encode())  # as spreadsheets save it
    assert len(load_dataset(root).clips) == 12
    for encoding in ("utf-16", "latin-1"):
        table.write_bytes(text.replace("dog", "chien aboyé").encode(encoding))
        with pytest.raises(DataError, match="not UTF-8"):
            load_dataset(root)


def test_huge_tables_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_CSV_BYTES", 100)
    with pytest.raises(DataError, match="larger than"):
        load_dataset(esc(tmp_path))


def test_two_tables_are_ambiguous(tmp_path):
    touch(esc(tmp_path) / "meta" / "esc10.csv")
    with pytest.raises(DataError, match=r"2 tables \(esc10.csv, esc50.csv\)"):
        load_dataset(tmp_path)


def test_folders_that_are_no_data_set(tmp_path):
    touch(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    touch(tmp_path / "m4a" / "dog" / "a.m4a")
    cases = {"gone": "is missing", "file": "not a folder", "empty": "is no data set", "m4a": "dog holds no recordings"}
    for name, sentence in cases.items():
        with pytest.raises(DataError, match=sentence):
            load_dataset(tmp_path / name)


@pytest.mark.parametrize("label", ["two\nlines", "\x1b[2J", "x" * 201])
def test_classes_that_no_bundle_could_name(tmp_path, label):
    """Known before anything is trained, not when the bundle is made."""
    touch(tmp_path / "dog" / "a.wav")
    touch(tmp_path / label / "b.wav")
    with pytest.raises(DataError, match="is not 1 to 200 printable characters: rename it"):
        load_dataset(tmp_path)


BAD_TAU = {
    "other label": (dict(fold1_train="filename\tscene_label\naudio/bus-lyon-1001-40001-s1.wav\ttram"), "'tram' here"),
    "not in meta": (
        dict(fold1_train="filename\tscene_label\naudio/x.wav\tbus"),
        "x.wav is 'bus' here and None in meta",
    ),
    "in both": (dict(fold1_evaluate=TAU_2020["evaluation_setup/fold1_train.csv"]), "listed twice in fold 1"),
    "commas": (dict(meta=TAU_2020["meta.csv"].replace("\t", ",")), "meta.csv has no column 'filename' .by tabs"),
    "no device": (dict(meta=TAU_2020["meta.csv"].replace("source_label", "device")), "no column 'source_label'"),
}


@pytest.mark.parametrize("name", BAD_TAU)
def test_broken_tau_tables_say_so(tmp_path, name):
    changed, sentence = BAD_TAU[name]
    with pytest.raises(DataError, match=sentence):
        load_dataset(tau(tmp_path, TAU_2020, **changed))


def test_tau_evaluation_sets_have_no_labels(tmp_path):
    touch(tmp_path / "evaluation_setup" / "fold1_test.csv", b"filename\r\naudio/0.wav\r\n")
    with pytest.raises(DataError, match="carry no labels"):
        load_dataset(tmp_path)


def test_load_wave_is_mono_finite_and_at_the_asked_rate(tmp_path):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (8000, 2)).astype(np.float32)
    wave[5] = np.nan
    soundfile.write(tmp_path / "a.wav", wave, 8000, subtype="FLOAT")
    same = load_wave(tmp_path / "a.wav", 8000)
    wave[5] = 0
    np.testing.assert_array_equal(same, wave.mean(1))
    faster = load_wave(tmp_path / "a.wav", 44100)
    assert faster.shape == (44100,) and faster.dtype == np.float32 and np.isfinite(faster).all()
