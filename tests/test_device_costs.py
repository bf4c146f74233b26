"""The estimator against rows it has not seen, the arena against tflite-micro, calibration, the page, hostile files."""

import csv
import html.parser
import json
import re

import numpy as np
import pytest

from benchmarks import devices as benchmark
from benchmarks import mobilenets, rows
from devices import arena, bench, calibrate, profile, report, work
from devices.cost import NOISE, expectation, fit
from devices.page import page
from devices.size import read_model
from tests.test_devices import OPS, tiny_onnx, tiny_tflite, write_onnx, write_tflite

assert tiny_onnx and tiny_tflite  # fixtures, used by name


@pytest.fixture(scope="module")
def found():
    return benchmark.measure()


def test_left_out_rows_lie_where_the_report_says(found):
    """What is promised to users: median error, how often the interval holds, how wide it is."""
    assert found["latency.rows"] > 250
    assert found["latency.median_error"] <= 0.15
    assert found["latency.coverage"] >= 0.9 and found["latency.high_over_low"] <= 2.2
    assert found["latency.coverage_without_own_family"] >= 0.85
    assert found["latency.left_out_board.coverage"] >= 0.8
    json.dumps(found)


def test_arena_and_flash_against_published_figures(found):
    assert (found["ram.exact"], found["ram.files"]) == (1.0, 17)
    assert found["flash.within_1pct"] >= 0.95 and found["flash.files"] >= 13


def test_the_arena_can_be_larger_than_the_largest_sum():
    """Two of the published nets: buffers leave gaps that no other fits into."""
    sizes, graphs = rows.models(), rows.graphs()
    with (rows.DATA / "arena.csv").open() as file:
        heads = {row["file"]: int(row["arena_head_bytes"]) for row in csv.DictReader(file)}
    larger = {name for name, head in heads.items() if head > 1.1 * sizes[name].peak_activation_bytes}
    assert larger == {"mlperf_vww_int8.tflite", "resnet_v1_32_32_int8.tflite"}
    for name in heads:
        placed = arena.plan(graphs[name])
        for i, a in enumerate(placed):  # nothing that lives at the same time shares a byte
            for b in placed[:i]:
                apart = a.last < b.first or b.last < a.first
                assert apart or a.offset + a.size <= b.offset or b.offset + b.size <= a.offset


def test_mobilenets_count_as_their_papers_do():
    v1, v2 = mobilenets.models().values()
    assert round(v1.macs / 1e6) == 569 and round(v2.macs / 1e6) == 301
    assert round(v1.parameters / 1e6, 1) == 4.2 and round(v2.parameters / 1e6, 1) == 3.5


def test_work_by_hand(tiny_tflite, tiny_onnx):
    """conv 3x3 of 48 x 18 MACs, gathered 16 x 18; depthwise 48 x 9; dense 5 x 48."""
    assert dict(zip(work.CLASSES, work.of_model(read_model(tiny_tflite)))) == {
        "conv": 864, "depthwise": 432, "dense": 240, "output": 48 + 48 + 5, "patch": 288, "element": 0, "operator": 3,
    }  # fmt: skip
    counts = dict(zip(work.CLASSES, work.of_model(read_model(tiny_onnx))))
    assert (counts["conv"], counts["patch"], counts["dense"]) == (8 * 36 * 18, 36 * 18, 24)
    assert counts["element"] == 288 + 288 + 288 and counts["operator"] == 5  # batch norm, relu, pool


def test_fit_recovers_what_it_can_know():
    """Times made from known costs: the fit explains them, and its interval narrows with every row."""
    rng = np.random.default_rng(0)
    counts = np.abs(rng.standard_normal((40, 7))) * [1e6, 1e5, 1e5, 1e4, 1e5, 1e4, 10]
    true = np.array([2.0, 5.0, 4.0, 30.0, 1.5, 20.0, 3000.0])
    prior = expectation("Cortex-M4")
    few, many = (fit(prior, counts[:n], counts[:n] @ true) for n in (2, 30))
    for row in counts[30:]:
        assert many.cycles(row) == pytest.approx(row @ true, rel=0.1)
        assert NOISE < many.deviation(row) < few.deviation(row) < prior.deviation(row)


def test_calibration_moves_the_interval_to_the_measurement(tiny_onnx, tiny_tflite, tmp_path, capsys):
    out, profiled = tmp_path / "results.json", tmp_path / "mine.toml"
    assert bench.main([str(tiny_onnx), "--out", str(out), "--runs", "3"]) == 0
    results = json.loads(out.read_text())
    board = profile.load("rp2040")
    counts = np.array(results["results"][0]["work"])
    results["results"][0]["precision"] = "int8"  # the little net is float; what counts here is the arithmetic
    results["results"][0]["median_ms"] = 3.0 * board.likely_ms(counts)
    out.write_text(json.dumps(results))
    assert calibrate.main(["rp2040", str(out), "--out", str(profiled)]) == 0
    mine = profile.load(str(profiled))
    before, after = board.latency_ms(counts), mine.latency_ms(counts)
    assert after[0] < 3.0 * board.likely_ms(counts) < after[1] and after[1] / after[0] < before[1] / before[0]
    assert mine.measured and mine.known_from.startswith("measured with devices.bench: 1 nets")
    assert report.main([str(tiny_tflite), "--device", str(profiled), "--runs", "0"]) == 0
    capsys.readouterr()
    for wrong in ("{}", "[1]", '{"results": []}', "nonsense", json.dumps({"results": [{"precision": "int8"}]})):
        out.write_text(wrong)
        assert calibrate.main(["rp2040", str(out), "--out", str(profiled)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert bench.main([str(tmp_path / "absent.tflite"), "--out", str(out)]) == 2


class _Balanced(html.parser.HTMLParser):
    """Every tag that must be closed is, in order; collects what refers to the outside."""

    def __init__(self):
        super().__init__()
        self.open, self.links = [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for key, value in attrs if key in ("src", "href", "xlink:href")]
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in ("rect", "line", "polyline")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_no_network(small_bundle, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert report.main([str(small_bundle), "--runs", "1", "--device", "all", "--html", str(out)]) == 0
    text, parser = out.read_text(), _Balanced()
    parser.feed(text)
    assert parser.open == [] and parser.links == ["data:,"] and "<script" not in text and "url(" not in text
    assert all(f"{name}: " in text for name in profile.names())
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"[\w-]+: (fits|may fit|does not fit): .*", lines[0])  # the verdict stands first
    numbers = report.report_dict(small_bundle, ["stm32u5"], runs=0)
    numbers["name"] = "<script>alert(1)</script>"
    assert "<script" not in page(numbers)


def test_an_op_without_a_cost_is_named_and_mutants_end_in_one_line(tiny_tflite, tiny_onnx, tmp_path, capsys):
    nodes = [("NonMaxSuppression", ["x", "x"], ["y"], {})]
    strange = write_onnx(tmp_path / "n.onnx", nodes, {"x": [1, 2, 4]}, ["y"], {})
    assert report.main([str(strange), "--runs", "0"]) == 2
    assert "op NonMaxSuppression" in capsys.readouterr().err
    rng, refused = np.random.default_rng(2), 0
    for trial in range(120):
        source = (tiny_tflite, tiny_onnx)[trial % 2]
        data = np.frombuffer(source.read_bytes(), np.uint8).copy()
        data[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
        broken = tmp_path / f"broken{source.suffix}"
        broken.write_bytes(data.tobytes())
        code = report.main([str(broken), "--runs", "0", "--device", "stm32u5", "rp2040"])
        captured = capsys.readouterr()
        assert code == 0 or (code == 2 and captured.err.count("\n") == 1 and captured.out == "")
        refused += code == 2
    assert refused > 20


def test_views_alone_take_no_time(tmp_path):
    tensors = [((1, 4), "int8", None), ((4,), "int8", None)]
    path = write_tflite(tmp_path / "view.tflite", tensors, [(OPS.RESHAPE, [0], [1])], [0], [1])
    low, high = profile.load("stm32u5").latency_ms(work.of_model(read_model(path)))
    assert low == high == 0.0
