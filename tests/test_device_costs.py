"""The estimator against rows it has not seen, the arena against tflite-micro, calibration, the page, hostile files."""

import csv
import dataclasses
import html.parser
import json
import os
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import devices as benchmark
from benchmarks import mobilenets, rows
from devices import arena, bench, calibrate, ethos, profile, report, work
from devices.cost import NOISE, expectation, fit
from devices.graph import Graph, Node, Tensor
from devices.page import page
from devices.size import read_model
from runtime.bundle import DEFAULT
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


def _planned_slowly(graph):
    """The same plan as its definition says: every tensor against every other."""
    found = []
    for place in arena.plan(graph):  # the order alone
        others = [other for other in found if other.first <= place.last and place.first <= other.last]
        free = [0, *sorted(other.offset + other.size for other in others)]
        fits = (at for at in free if all(at + place.size <= o.offset or o.offset + o.size <= at for o in others))
        found.append(dataclasses.replace(place, offset=next(fits)))
    return found


def test_the_plan_is_the_lowest_free_place_however_many_tensors():
    rng = np.random.default_rng(0)
    for _ in range(40):
        tensors, nodes, names = {"x": Tensor((64,), "int8", 8)}, [], ["x"]
        for i in range(int(rng.integers(1, 40))):
            tensors[f"t{i}"] = Tensor((int(rng.integers(1, 3000)),), "int8", 8)
            sources = [names[-1], names[int(rng.integers(len(names)))]]  # a neighbour, and one from anywhere before
            nodes.append(Node("ADD", tuple(sources), (f"t{i}",)))
            names.append(f"t{i}")
        graph = Graph(tuple(nodes), tensors, ("x",), (names[-1],))
        assert arena.plan(graph) == _planned_slowly(graph)
        assert [p.size for p in arena.plan(graph)] == sorted((p.size for p in arena.plan(graph)), reverse=True)
    chain = {str(i): Tensor((16,), "int8", 8) for i in range(20_001)}
    nodes = [Node("RELU", (str(i),), (str(i + 1),)) for i in range(20_000)]
    assert arena.head_bytes(Graph(tuple(nodes), chain, ("0",), ("20000",))) == 32


HEAD = "system,file,board_name,core,kind,clock_mhz,ms\n"


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "no column system, file"),
        (b"a,b\n1,2\n", "no column system, file"),
        (f"{HEAD}TFLM,net.tflite\n".encode(), "line 2: no board_name, core, kind, clock_mhz, ms"),
        (b"\xff\xfe", "is no CSV"),
        (f"{HEAD}{'x' * 200_000}".encode(), "is no CSV"),
    ],
)
def test_tables_of_rows_that_are_none(data, sentence, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        rows.read(path)
    assert sentence in str(caught.value)


def test_models_that_cannot_be_counted_are_left_out_and_named(tiny_tflite, tmp_path):
    (tmp_path / "broken.tflite").write_bytes(b"not a model")
    sizes, refused = rows.models_in(tmp_path)
    assert list(sizes) == ["tiny.tflite"] and list(refused) == ["broken.tflite"]
    assert benchmark.measure(folder=tmp_path)["details"]["refused"] == refused


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
    assert calibrate.main(["rp2040", str(out), "--out", str(profiled)]) == 2 and not profiled.exists()
    said = capsys.readouterr().err
    assert results["machine"]["cpu"] in said and "the profile is of a Cortex-M0+" in said and "--force" in said
    assert calibrate.main(["rp2040", str(out), "--out", str(profiled), "--force"]) == 0
    assert "folded in although" in capsys.readouterr().out
    mine = profile.load(str(profiled))
    before, after = board.latency_ms(counts), mine.latency_ms(counts)
    assert after[0] < 3.0 * board.likely_ms(counts) < after[1] and after[1] / after[0] < before[1] / before[0]
    assert mine.measured and mine.known_from.startswith("measured with devices.bench: 1 net, ")
    assert report.main([str(tiny_tflite), "--device", str(profiled), "--runs", "0"]) == 0
    capsys.readouterr()
    assert bench.main([str(tmp_path / "absent.tflite"), "--out", str(out)]) == 2


def results_of(board, **changes):
    """What devices.bench would write on a board of this profile: one int8 net."""
    row = {"name": "net", "precision": "int8", "work": [3e6, 3e5, 1e4, 8e4, 2e5, 2e4, 15.0], "median_ms": 50.0,
           "threads": 1, "engine": f"{board.runtime} {board.version}", "date": "2026-11-01"}  # fmt: skip
    return {"machine": {"cpu": board.core}, "results": [{**row, **changes}]}


@pytest.mark.parametrize("name", ["stm32l4-tflm", "pi-4"])
def test_calibration_compares_the_machine_with_the_profile(name, tmp_path, capsys):
    board, out, mine = profile.load(name), tmp_path / "results.json", tmp_path / "mine.toml"
    arguments = [name, str(out), "--out", str(mine)]
    right = results_of(board, engine="ai-edge-litert 2.1.0") if name == "pi-4" else results_of(board)
    for results, sentence in [
        ({**right, "machine": {"cpu": "Cortex-M85"}}, "they were made on Cortex-M85"),
        ({"results": right["results"]}, "they were made on an unknown core"),
        (results_of(board, engine="onnxruntime 1.2"), "they were made with onnxruntime 1.2"),
        ({**right, "results": [{**right["results"][0], "threads": 4}]}, "several threads"),
    ]:
        out.write_text(json.dumps(results))
        assert calibrate.main(arguments) == 2 and not mine.exists()
        said = capsys.readouterr().err
        assert sentence in said and str(out) in said and said.count("\n") == 1
    out.write_text(json.dumps(right))
    assert calibrate.main(arguments) == 0
    assert board.core in profile.load(str(mine)).known_from and "2026-11-01" in profile.load(str(mine)).known_from


HOSTILE_RESULTS = (
    "{}", "[1]", '{"results": []}', '{"results": 5}', '{"results": [1]}', "nonsense", "[" * 100_000, "\udcff",
    '{"results": [{"precision": "int8"}]}', '{"results": [{"precision": "float32", "median_ms": 1}]}',
    *(json.dumps(results_of(profile.load("rp2040"), **changes)) for changes in (
        {"work": None}, {"work": [1, 2]}, {"work": ["a"] * 7}, {"work": [float("nan")] * 7}, {"work": [-1] * 7},
        {"work": [0] * 7}, {"median_ms": 0}, {"median_ms": float("inf")}, {"median_ms": "fast\n"},
        {"median_ms": 10**400}, {"threads": "many"}, {"precision": None})),
)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE_RESULTS)
def test_hostile_results_end_in_one_line_that_names_their_file(text, tmp_path, capsys):
    out, mine = tmp_path / "results.json", tmp_path / "mine.toml"
    out.write_text(text, errors="surrogateescape")
    assert calibrate.main(["rp2040", str(out), "--out", str(mine)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"devices.calibrate: {out}") and said.count("\n") == 1 and not mine.exists()


def test_odd_but_usable_results(tmp_path, capsys):
    """No name, a float net beside the int8 one, texts that TOML would not take."""
    out, mine, board = tmp_path / "results.json", tmp_path / "mine.toml", profile.load("rp2040")
    results = results_of(board)
    del results["results"][0]["name"]
    results["results"][0]["date"] = '"\u007f😀'
    results["machine"]["cpu"] += '\ud83d \n"]'
    results["results"].append({"precision": "float32", "median_ms": 3})
    out.write_text(json.dumps(results))
    assert calibrate.main(["rp2040", str(out), "--out", str(mine)]) == 0
    assert "net 0: measured 50 ms" in capsys.readouterr().out and profile.load(str(mine)).measured
    wrong = tmp_path / "bad.toml"
    wrong.write_bytes(b"\xff\xfe")
    none, nowhere = str(tmp_path / "none.json"), str(tmp_path / "no" / "mine.toml")
    for arguments, name in [
        (["nope", str(out)], "unknown device 'nope'"),
        ([str(wrong), str(out)], str(wrong)),
        (["rp2040", none], none),
        (["rp2040", str(out), "--out", nowhere], nowhere),
    ]:
        assert calibrate.main(arguments) == 2
        said = capsys.readouterr().err
        assert name in said and said.count("\n") == 1


def test_nets_that_the_device_could_not_count(small_bundle, tmp_path, monkeypatch, capsys):
    """Beside onnxruntime alone no package reads model files: calibrate counts them."""
    results, mine = tmp_path / "results.json", tmp_path / "mine.toml"
    no_reader = SimpleNamespace(find_spec=lambda package: None)
    monkeypatch.setattr(bench, "importlib", SimpleNamespace(util=no_reader))
    assert bench.main([str(small_bundle), "--out", str(results), "--runs", "2"]) == 0
    assert json.loads(results.read_text())["results"][0]["work"] is None
    arguments = ["pi-4", str(results), "--out", str(mine), "--force"]
    assert calibrate.main(arguments) == 2 and "--models" in capsys.readouterr().err
    assert calibrate.main([*arguments, "--models", str(small_bundle)]) == 0
    assert profile.load(str(mine)).measured


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


# What ethos-u-vela 5.2.0 said of mlperf_kws_int8.tflite on ethos-u55-256, the columns that are read.
VELA_TABLE = """core_clock,inference_time,sram_memory_used,dram_memory_used,on_chip_flash_memory_used,\
off_chip_flash_memory_used,system_config,cycles_total
500000000.0,0.00011668,21.671875,0.0,0.0,30.375,Ethos_U55_High_End_Embedded,58340
"""


def _vela(folder, script, monkeypatch):
    folder.mkdir(exist_ok=True)
    (folder / "table.csv").write_text(VELA_TABLE)
    (folder / "vela").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "vela").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_ethos_u_figures_are_vela_s_own(tiny_tflite, tiny_onnx, tmp_path, capsys, monkeypatch):
    """Its words stand in for it here; where it is installed, a shipped net is compiled in earnest."""
    for_real, arguments = shutil.which("vela"), [str(tiny_tflite), "--runs", "0", "--ethos-u", "ethos-u55-256"]
    says = 'echo "CPU operators = 1 (2.6%)"; echo "NPU operators = 38 (97.4%)"'
    _vela(tmp_path / "bin", f'cp {tmp_path}/bin/table.csv "$5/tiny_summary_x.csv"; {says}', monkeypatch)
    assert report.main(arguments) == 0
    assert (
        "tiny: ethos-u55-256 at 500 MHz (Ethos_U55_High_End_Embedded): 0.117 ms, 58,340 cycles, SRAM 21.7 KiB, "
        "flash 30.4 KiB, 38 of 39 of its operators on the NPU" in capsys.readouterr().out
    )
    page_at = tmp_path / "page.html"
    assert report.main([*arguments, "--html", str(page_at)]) == 0 and "58,340 cycles" in page_at.read_text()
    for script, sentence in [("echo strange >&2; exit 1", "ethos-u-vela refuses it: strange"), ("exit 0", "no output")]:
        _vela(tmp_path / "bin", script, monkeypatch)
        assert sentence in ethos.estimate(tiny_tflite, "ethos-u55-32")["error"]
    assert "reads .tflite files" in ethos.estimate(tiny_onnx, "ethos-u55-32")["error"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "pip install ethos-u-vela" in ethos.estimate(tiny_tflite, "ethos-u55-32")["error"]
    if for_real:
        monkeypatch.setenv("PATH", f"{os.path.dirname(for_real)}:/usr/bin:/bin")
        found = ethos.estimate(DEFAULT / "mel.tflite", "ethos-u55-256")
        assert (
            found["on_npu"] == found["operators"] > 20
            and found["sram_kib"] < 1024
            and found["cycles"] > 54_428_928 / 256
        )


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
