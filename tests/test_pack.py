"""The recordings that ship, and the command that makes them."""

import csv
import sys

import numpy as np
import pytest
import soundfile

from runtime import command
from train import pack
from train.data import RECORDINGS, DataError, load_dataset, load_wave, read_table

HEADER = [*pack.COLUMNS, *pack.CREDITS]
ROWS = [
    ["1-100-A-0.flac", 1, 0, "dog", 100, "A", "Émile", "bark, loud.wav", "https://example.org/100/", "CC0"],
    ["2-101-A-10.flac", 2, 10, "rain", 101, "A", "b", 'a "quoted" rain', "https://example.org/101/", "CC-BY"],
    ["2-102-B-10.flac", 2, 10, "rain", 102, "B", "c", "storm", "https://example.org/102/", "CC-Sampling+"],
    ["2-103-B-10.flac", 2, 10, "rain", 103, "B", "c", "storm", "https://example.org/103/", "CC-BY-NC"],
]


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "source"
    (root / "audio").mkdir(parents=True)
    (root / "meta").mkdir()
    write_table(root, HEADER, ROWS)
    for number, row in enumerate(ROWS):
        wave = np.random.default_rng(number).normal(0, 0.1, 30_001)
        soundfile.write(root / "audio" / row[0], wave, 44100)
    return root


def write_table(root, header, rows):
    with (root / "meta" / "esc10.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_pack_holds_what_may_be_passed_on(source, tmp_path):
    out = tmp_path / "pack"
    line = pack.pack(source, out, max_bytes=1 << 20)
    assert "2 clips" in line and "quality 1.0; 2 left out" in line
    assert list(contents(out)) == ["ATTRIBUTION.txt", "audio/1-100-A-0.ogg", "audio/2-101-A-10.ogg", "meta/esc10.csv"]
    rows = read_table(out / "meta" / "esc10.csv", tuple(HEADER))
    assert [list(row.values()) for row in rows] == [
        [str(value).replace(".flac", ".ogg") for value in row] for row in ROWS[:2]
    ]
    text = (out / "ATTRIBUTION.txt").read_text(encoding="utf-8")
    assert '- 1-100-A-0.ogg [dog]: derived from "bark, loud.wav" (https://example.org/100/) by Émile [CC0]' in text
    assert "2-102-B-10.flac (CC-Sampling+), 2-103-B-10.flac (CC-BY-NC)" in text and "doi:10.1145" in text


def test_pack_is_a_data_set_of_the_same_lengths_and_sounds(source, tmp_path):
    pack.pack(source, tmp_path / "pack", max_bytes=1 << 20)
    dataset = load_dataset(tmp_path / "pack")
    assert dataset.labels == ("dog", "rain") and [clip.group for clip in dataset.clips] == ["100", "101"]
    for clip, row in zip(dataset.clips, ROWS):
        wave, original = load_wave(clip.path, 44100), load_wave(source / "audio" / row[0], 44100)
        assert wave.shape == original.shape == (30_001,)
        assert np.sum((wave - original) ** 2) < 0.01 * np.sum(original**2)  # 20 dB at the finest quality


def test_two_runs_give_equal_bytes(source, tmp_path):
    for name in ("one", "two"):
        pack.pack(source, tmp_path / name, max_bytes=1 << 20)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_the_finest_quality_that_fits_is_taken(source, tmp_path):
    for name, max_bytes in (("fine", 60_000), ("coarse", 25_000)):
        pack.pack(source, tmp_path / name, max_bytes)
        assert 0.7 * max_bytes < sum(map(len, contents(tmp_path / name).values())) <= max_bytes
    with pytest.raises(DataError, match="do not fit 1000 bytes"):
        pack.pack(source, tmp_path / "tiny", 1000)
    assert not (tmp_path / "tiny").exists()


def test_an_interrupted_run_leaves_the_old_pack(source, tmp_path, monkeypatch):
    out = tmp_path / "pack"
    pack.pack(source, out, max_bytes=1 << 20)
    before = contents(out)
    rename = pack.os.rename

    def interrupt(start, goal):
        if start.name == "new":
            raise KeyboardInterrupt
        rename(start, goal)

    monkeypatch.setattr(pack.os, "rename", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pack.pack(source, out, max_bytes=25_000)
    assert contents(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pack", "source"]


def test_other_folders_are_not_replaced(source, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="not a pack"):
        pack.pack(source, tmp_path / "home", 1 << 20)
    with pytest.raises(DataError, match="not a folder"):
        pack.pack(source, tmp_path / "home" / "thesis.txt", 1 << 20)
    assert (tmp_path / "home" / "thesis.txt").exists()
    pack.pack(source, tmp_path / "pack", 1 << 20)
    with pytest.raises(DataError, match="the source itself"):
        pack.pack(tmp_path / "pack", tmp_path / "pack", 1 << 20)


def test_no_licence_no_pack(source, tmp_path):
    write_table(source, HEADER, [[*row[:-1], "CC-BY-NC"] for row in ROWS])
    with pytest.raises(DataError, match="no clip is CC0 or CC-BY"):
        pack.pack(source, tmp_path / "pack", 1 << 20)
    write_table(source, HEADER[:-1], [row[:-1] for row in ROWS])
    with pytest.raises(DataError, match="no column 'licence'"):
        pack.pack(source, tmp_path / "pack", 1 << 20)


def test_command_ends_in_one_line(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pack", str(source), "--out", str(tmp_path / "pack"), "--max-mb", "0.03"])
    pack.main()
    assert "2 clips, 0.0" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["pack", str(tmp_path / "gone")])
    with pytest.raises(SystemExit) as ended:
        command.run(pack.main)
    said = capsys.readouterr().err
    assert ended.value.code == 1 and said.startswith("error: ") and "gone is missing" in said and said.count("\n") == 1


def test_a_long_clip_does_not_overflow_the_encoder():
    wave = np.random.default_rng(0).normal(0, 0.1, 60 * pack.SR).astype(np.float32)
    assert len(pack.encode(wave, 0.1)) > 100_000


def test_shipped_recordings():
    dataset = load_dataset()
    assert dataset == load_dataset(RECORDINGS) and dataset.name == "esc10"
    assert len(dataset.clips) == 318 and len(dataset.labels) == 10 and dataset.folds == (1, 2, 3, 4)
    assert {soundfile.info(clip.path).frames for clip in dataset.clips} == {220500}
    n_bytes = sum(map(len, contents(RECORDINGS).values()))
    assert n_bytes <= 16_000_000
    rows = read_table(RECORDINGS / "meta" / "esc10.csv", tuple(HEADER))
    credits = (RECORDINGS / "ATTRIBUTION.txt").read_text(encoding="utf-8")
    assert {row["licence"] for row in rows} == {"CC0", "CC-BY"}
    assert all(f"{row['filename']} [" in credits and row["source_url"] in credits for row in rows)
