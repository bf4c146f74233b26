"""Sizes by every convention, and the one definition of a budget."""

import json
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress import size
from train.cnn7 import CNN7, WIDTHS_CR
from train.cpmobile import CPMobile


@pytest.fixture(scope="module")
def rows():
    return {name: size.size_row(name) for name in size.NETS}


def test_the_paper_is_a_row(rows):
    assert [rows[name]["paper"] for name in ("CNN-7", "CNN-7 CR", "CNN-7 CR+DC")] == [288_934, 80_006, 10_918]
    for row in rows.values():
        assert row["published_kb"] is None or abs(row["paper_kb"] - row["published_kb"]) < 0.5


def test_deployed_counts(rows):
    """Weights and biases of the folded nets; at int8 a weight is one byte and a bias four."""
    cr_dc = rows["CNN-7 CR+DC"]
    assert cr_dc["dcase_2022"] == 10_570 and cr_dc["dcase_2023_bytes"] == 11_320
    assert rows["full DC"]["dcase_2022"] == 36_330 and rows["full DC"]["dcase_2023_bytes"] == 37_704
    for row in rows.values():
        assert row["dcase_2023_bytes"] < row["onnx_bytes"] < row["tflite_bytes"] < 1.75 * row["dcase_2023_bytes"]


def test_the_estimate_of_a_file(rows):
    """Weights, biases and MACs are counted, not guessed: they are those of the graph; the file's bytes within 3 %."""
    for name, (widths, decomposed, _) in size.NETS.items():
        counts = size.estimated_counts(CNN7(10, widths, decomposed))
        exact = {key: rows[name][key] for key in ("dcase_2022", "deployed_float_bytes", "dcase_2023_bytes", "mmacs")}
        assert {key: counts[key] for key in exact} == exact
        assert counts["estimated_bytes"] == pytest.approx(rows[name]["tflite_bytes"], rel=0.03)


def test_the_small_families_take_the_bytes_of_the_deployed_net(rows):
    """Three of each fit where three of CNN-7 do; a depthwise convolution has one weight per tap and channel."""
    for family in ("cpmobile", "bcresnet"):
        row = size.family_row(family, "small")
        assert row["estimated_bytes"] == pytest.approx(rows["deployed"]["tflite_bytes"], rel=0.03)
        assert size.fits([row["estimated_bytes"]] * 3, size.parse_bytes("128kb"))
    full = CPMobile(10)
    folded = sum(m.weight.numel() + m.out_channels for m in full.modules() if isinstance(m, torch.nn.Conv2d))
    assert size.family_row("cpmobile", "full")["dcase_2022"] == folded
    assert size.family_row("cpmobile", "full")["mmacs"] < 30  # DCASE 2023's limit, for which the paper sized it


def test_conventions_differ_as_they_should():
    """2020 leaves BN out, the statistics count it twice, P3 counts only the BN in front and no FC bias."""
    model = CNN7(10, WIDTHS_CR, order="paper")
    counts = size.trained_counts(model)
    in_norms = 2 * (3 + 16 + 32 + 32 + 32 + 64) + 2 * sum(WIDTHS_CR)
    assert counts["dcase_2021"] - counts["dcase_2020"] == in_norms
    assert counts["with_statistics"] - counts["dcase_2021"] == in_norms
    assert counts["dcase_2021"] - counts["paper"] == 2 * sum(WIDTHS_CR) + 10


def test_only_2020_forgives_zeros():
    model = CNN7(10, WIDTHS_CR, order="paper")
    before = size.trained_counts(model)
    with torch.no_grad():
        model.blocks[1].conv.weight[3] = 0
    after = size.trained_counts(model)
    assert {key: before[key] - after[key] for key in before if before[key] != after[key]} == {"dcase_2020": 16 * 9}


@pytest.mark.parametrize(
    "text, n_bytes",
    [
        ("128kb", 131_072),
        ("128 KB", 131_072),
        (" 128KiB ", 131_072),
        ("131072", 131_072),
        (131_072, 131_072),
        ("1b", 1),
        ("0.5mb", 524_288),
        ("1.5kb", 1_536),
        ("2MiB", 2_097_152),
    ],
)
def test_parse_bytes(text, n_bytes):
    assert size.parse_bytes(text) == n_bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "kb",
        "0",
        0,
        -5,
        "-128kb",
        "0.5",
        "nan",
        "inf",
        "1e9",
        "128gb",
        "128 k b",
        "9999999mb",
        "١٢٨",
        True,
        None,
        1.5,
    ],
)
def test_parse_bytes_refuses(text):
    with pytest.raises(ValueError, match="want a size from 1 byte"):
        size.parse_bytes(text)


@given(st.text(max_size=20))
def test_parse_bytes_gives_a_size_or_a_value_error(text):
    try:
        assert 1 <= size.parse_bytes(text) <= size.MAX_BYTES
    except ValueError:
        pass


def test_fits_is_the_sum_and_the_budget_itself_fits():
    assert size.fits([65_536, 65_536], 131_072)
    assert not size.fits([65_536, 65_536, 1], 131_072)


def test_command_line(rows, monkeypatch, capsys):
    monkeypatch.setattr(size, "size_row", rows.get)
    monkeypatch.setattr(sys, "argv", ["size", "--json"])
    size.main()
    printed = json.loads(capsys.readouterr().out)
    assert printed[: len(rows)] == list(rows.values())
    assert [row["net"] for row in printed[len(rows) :]] == [
        "cpmobile full", "cpmobile small", "bcresnet full", "bcresnet small"
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["size"])
    size.main()
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("CNN-7 CR+DC", "10,918", "1,128.65", "1,129.0"))
