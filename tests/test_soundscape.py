"""train.soundscape: a stream that repeats by its seed, whose labels say where its sounds are."""

import csv
import itertools
import wave as wavfile

import numpy as np
import pytest
from scipy import signal

from tests.conftest import run
from train import soundscape as ss
from train.data import load_dataset


def read(path):
    with wavfile.open(str(path)) as file:
        assert file.getframerate() == ss.SR and file.getnchannels() == 1 and file.getsampwidth() == 2
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767


def octave_levels_db(wave):
    """Mean power density in octaves from 50 Hz to 12.8 kHz."""
    f, density = signal.welch(wave, ss.SR, nperseg=8192)
    edges = 50 * 2.0 ** np.arange(9)
    return [10 * np.log10(density[(f >= low) & (f < 2 * low)].mean()) for low in edges[:-1]]


@pytest.mark.parametrize("kind, slope_db", [("white", 0), ("pink", -3), ("brown", -6)])
def test_noise_falls_by_so_many_db_per_octave_at_the_stated_level(kind, slope_db):
    room = ss.RoomNoise(kind, -40, np.random.default_rng(0))
    wave = np.concatenate([room.feed(n) for n in (ss.SR, 123, 20 * ss.SR)])
    assert np.polyfit(range(8), octave_levels_db(wave), 1)[0] == pytest.approx(slope_db, abs=0.35)
    assert 10 * np.log10(np.mean(wave.astype(float) ** 2)) == pytest.approx(-40, abs=0.7)


def test_hum_is_fifty_hertz_at_the_stated_level():
    room = ss.RoomNoise("hum", -30, np.random.default_rng(0))
    wave = np.concatenate([room.feed(12345) for _ in range(10)])
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    assert np.argmax(spectrum) * ss.SR / len(wave) == pytest.approx(50, abs=1)
    assert 10 * np.log10(np.mean(wave.astype(float) ** 2)) == pytest.approx(-30, abs=0.1)


def test_noise_does_not_depend_on_how_it_is_asked_for():
    whole, parts = (ss.RoomNoise("pink", -20, np.random.default_rng(7)) for _ in range(2))
    wave = whole.feed(5000)
    assert np.allclose(np.concatenate([parts.feed(n) for n in (1, 1999, 3000)]), wave, atol=1e-7)


def test_labels_lie_on_the_sounds(sounds, tmp_path):
    """With next to no noise, what is loud is what is labelled, and nothing else is."""
    clips = load_dataset(sounds).clips
    labels = ss.write(tmp_path / "s.wav", ss.soundscape(clips, 1.5, seed=3, noise_db=-90))
    wave = read(tmp_path / "s.wav")
    assert len(wave) == 90 * ss.SR and len(labels) >= 4 and {label.event_label for label in labels} <= {"hum", "pulses"}
    inside = np.zeros(len(wave), bool)
    for label in labels:
        first, last = round(label.onset * ss.SR), round(label.offset * ss.SR)
        assert np.sqrt(np.mean(wave[first:last] ** 2)) > 0.01
        inside[first:last] = True
    assert np.abs(wave[~inside]).max() < 1e-3
    gaps = [b.onset - a.offset for a, b in itertools.pairwise(labels)]
    assert all(ss.GAP_S[0] <= gap <= ss.GAP_S[1] + 0.01 for gap in gaps)


def test_snr_is_what_was_asked_for(sounds):
    clips = load_dataset(sounds).clips
    pieces = list(ss.soundscape(clips, 1, seed=1, noise_db=-60, snr_db=20))
    heard = [samples for samples, label in pieces if label]
    assert heard
    for samples in heard:
        assert 10 * np.log10(np.mean(samples.astype(float) ** 2)) == pytest.approx(-40, abs=0.5)


def test_the_room_has_quiet_stretches(sounds):
    pieces = ss.soundscape(load_dataset(sounds).clips, 5, seed=0, noise_db=-40)
    silent = np.concatenate([samples for samples, label in pieces if label is None])
    seconds = silent[: len(silent) // ss.SR * ss.SR].reshape(-1, ss.SR).astype(float)
    levels = 10 * np.log10(np.mean(seconds**2, axis=1))
    assert (np.abs(levels + 40) < 2).mean() > 0.4 and (np.abs(levels + 70) < 2).mean() > 0.1


def test_the_silence_around_a_sound_is_not_part_of_it():
    t = np.arange(2 * ss.SR)
    tone = np.where((t > 0.5 * ss.SR) & (t < 1.2 * ss.SR), np.sin(t / 10), 1e-5 * np.sin(t / 7)).astype(np.float32)
    assert len(ss.sounding(tone)) / ss.SR == pytest.approx(0.7, abs=0.02)
    assert len(ss.sounding(np.zeros(1000, np.float32))) == 0


def test_the_same_seed_gives_the_same_bytes(sounds, tmp_path):
    command = ("train.soundscape", "--data", sounds, "--minutes", 0.5, "--fold", 2, "--out")
    made = run(*command, tmp_path / "a.wav", "--seed", 5)
    assert made.returncode == 0, made.stderr
    assert "runtime.score" in made.stdout
    clips = [clip for clip in load_dataset(sounds).clips if clip.fold == 2]
    for seed in (5, 6):
        ss.write(tmp_path / f"{seed}.wav", ss.soundscape(clips, 0.5, seed=seed))
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "5.wav").read_bytes() != (tmp_path / "6.wav").read_bytes()
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "5.csv").read_bytes()
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert rows and list(rows[0]) == ["onset", "offset", "event_label"]


def test_an_interrupted_stream_leaves_no_file(sounds, tmp_path):
    def cut_short():
        yield np.zeros(1000, np.float32), None
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        ss.write(tmp_path / "s.wav", cut_short())
    assert not list(tmp_path.iterdir())


def test_a_stream_that_fails_leaves_the_one_before(sounds, tmp_path):
    out = ["--data", str(sounds), "--out", str(tmp_path / "s.wav"), "--minutes"]
    ss.main([*out, "0.5"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="no sound fits between the pauses"):
        ss.write(tmp_path / "s.wav", iter([(np.zeros(1000, np.float32), None)]))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(IsADirectoryError):
        ss.main([*out[:3], str(tmp_path / "folder.wav"), "--minutes", "0.5"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--out", "a.mp3"], "does not end in .wav"),
        (["--out", "nowhere/a.wav"], "is no folder"),
        (["--out", "a.wav", "--minutes", "inf"], "--minutes inf"),
        (["--out", "a.wav", "--minutes", "nan"], "--minutes nan"),
        (["--out", "a.wav", "--noise-db", "3"], "--noise-db 3.0"),
        (["--out", "a.wav", "--seed", "-1"], "--seed -1"),
        (["--out", "a.wav", "--fold", "9"], "no fold 9"),
    ],
)
def test_senseless_requests_are_refused(sounds, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        ss.main([*arguments, "--data", str(sounds)])
    assert not list(tmp_path.iterdir())
