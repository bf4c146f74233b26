"""What our files weigh, whether engines agree on them, and what a converter makes.  python -m benchmarks.files [--json]

The nets are CNN-7 with channel restriction (CR), with decomposed convolutions as well (CR+DC) and the wide DC net, with
random weights and calibrated on recordings; --run takes a trained one, and compares the engines over every patch of the
fold that it held out. Sizes do not depend on the weights. Latencies are the fastest of many rounds, one thread, all
files in turn: only their ratios mean something.
"""

import argparse
import itertools
import json
import os
import re
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks import converters
from export import int8, parity
from export.__main__ import calibration_patches
from export.equalize import fit_for_int8
from export.graph import graph_of
from export.to_onnx import onnx_bytes
from export.to_tflite import tflite_bytes
from runtime import command
from runtime.engine import open_model
from runtime.frontend import MEL
from train.cnn7 import CNN7, WIDTHS_CR, WIDTHS_WIDE
from train.data import RECORDINGS, load_dataset, split
from train.features import CACHE, PatchShape, features, looped, normalisation
from train.run import load_run

NETS = {"CR": (WIDTHS_CR, False), "CR+DC": (WIDTHS_CR, True), "wide DC": (WIDTHS_WIDE, True)}
N_CALIBRATION = 8
PATCH = PatchShape()


def recorded_patches(data, n, cache=CACHE):
    """-> (n, planes, frames, bands): one patch of each of n recordings, normalised by themselves."""
    clips = load_dataset(data).clips
    chosen = [clips[i] for i in np.linspace(0, len(clips) - 1, n).astype(int)]
    statics = [looped(s, PATCH.n_static) for s in features(chosen, MEL, cache)]
    cut = np.concatenate([PATCH.whole(s)[-1:] for s in statics])
    mean, std = normalisation(statics, PATCH)
    return (cut - mean[:, None]) / std[:, None]


def random_graph(widths, decomposed, shape):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CNN7(10, widths, decomposed).eval()
        for block in model.blocks:
            nn.init.normal_(block.after.bias, std=0.1)  # equal biases would be stored once
    return graph_of(model, shape)


def quantized(graph, x):
    return int8.quantize(graph, int8.calibrate(graph, x[:N_CALIBRATION], clip="mse"))


def files_of(graph, net, x):
    """-> {(writer, format): bytes}: ours and the converters' own, as written and stripped."""
    files = {("ours", "tflite"): tflite_bytes(net), ("ours", "onnx"): onnx_bytes(net)}
    files["ours, signed weights", "onnx"] = converters.signed_weights(
        onnx_bytes(net)
    )  # as fast as theirs, and as unsafe
    for name in converters.installed():
        raw = converters.tflite_quantized(graph, x[:N_CALIBRATION], name)
        files |= {(name, "tflite"): raw, (f"{name} stripped", "tflite"): converters.tflite_stripped(raw)}
    for form in converters.FORMS:
        raw = converters.quantized(onnx_bytes(graph), x[:N_CALIBRATION], form)
        files |= {(f"onnxruntime {form}", "onnx"): raw, (f"{form} stripped", "onnx"): converters.stripped(raw)}
    return files


def latencies_ms(files, patch, rounds):
    """-> {key of files: fastest}, one inference of each in turn: what else a machine does can only slow one down."""
    times = {key: [] for key in files}
    with tempfile.TemporaryDirectory() as folder:
        models = {}
        for i, ((_, fmt), data) in enumerate(files.items()):
            path = Path(folder) / f"{i}.{fmt}"
            path.write_bytes(data)
            models[list(files)[i]] = open_model(path)
        for _ in range(rounds):
            for key, model in models.items():
                start = time.perf_counter()
                model(patch[None])
                times[key].append(1e3 * (time.perf_counter() - start))
    return {key: min(values) for key, values in times.items()}


def table(x, rounds):
    """-> rows {net, writer, format, bytes, beyond_weights, ms, times_ours}; and {net: Int8Net}."""
    rows, nets = [], {}
    for name, (widths, decomposed) in NETS.items():
        graph = random_graph(widths, decomposed, x.shape[1:])
        net = nets[name] = quantized(graph, x)
        numbers = sum(op.weight.nbytes + op.bias.nbytes for op in net.ops if hasattr(op, "weight"))
        files = files_of(graph, net, x)
        ms = latencies_ms(files, x[0], rounds)
        for (writer, fmt), data in files.items():
            row = {"net": name, "writer": writer, "format": fmt, "bytes": len(data)}
            took = ms[writer, fmt]
            row |= {"beyond_weights": len(data) - numbers, "ms": took, "times_ours": took / ms["ours", fmt]}
            rows.append(row)
    return rows, nets


def held_out(run, data, cache):
    """-> the int8 net that export would make of `run`, and every patch of the clips of its held-out fold."""
    fold = run.meta.get("data", {}).get("fold")
    train_clips, test_clips = split(load_dataset(data), fold)
    if not test_clips:
        raise ValueError(f"the run of fold {fold} held nothing out: compare engines on one trained with --fold")
    calibration = calibration_patches(run, train_clips, cache)
    net = int8.quantize(*fit_for_int8(graph_of(run.model, calibration.shape[1:]), calibration))
    cut = [run.patch.cut(static) for static in features(test_clips, run.frontend, cache)]
    return net, run.normalise(np.concatenate(cut))


def agreement(net, x):
    """Engines against the reference of their rounding and against each other.

    -> {"patches", "logits"; by engine: "steps", the largest difference of a logit in int8 steps, and "logits_off", how
    many differ; "rules_apart", steps between the two references; "same_answer", patches by pair; "least_argmax_agreement"
    of any two}
    """
    tflite, onnx, step = tflite_bytes(net), onnx_bytes(net), float(net.scales[-1])
    double, single = (int8.dequantize(net, int8.run(net, x, rule)) for rule in ("double", "float32"))
    engines = {
        "LiteRT reference": (double, parity.run_tflite(tflite, x, reference=True)),
        "XNNPACK": (single, parity.run_tflite(tflite, x)),
        "onnxruntime": (single, parity.run_onnx(onnx, x)),
    }
    if parity.has_micro():
        engines["tflite-micro"] = double, parity.run_micro(tflite, x)
    if parity.has_tensorflow():
        engines["tensorflow reference"] = double, parity.run_tflite(tflite, x, True, parity.TENSORFLOW)
    off = {name: np.rint(np.abs(ours - theirs) / step) for name, (ours, theirs) in engines.items()}
    logits = {"double": double, "float32": single} | {name: theirs for name, (_, theirs) in engines.items()}
    pairs = {
        f"{a}, {b}": int((logits[a].argmax(1) == logits[b].argmax(1)).sum())
        for a, b in itertools.combinations(logits, 2)
    }
    return {
        "patches": len(x),
        "logits": double.size,
        "steps": {name: int(differences.max()) for name, differences in off.items()},
        "logits_off": {name: int((differences > 0).sum()) for name, differences in off.items()},
        "rules_apart": round(float(np.abs(double - single).max()) / step),
        "same_answer": pairs,
        "least_argmax_agreement": min(pairs.values()) / len(x),
    }


def together(rows):
    """Rows of `agreement` -> one of all their patches."""
    sums = {key: sum(row[key] for row in rows) for key in ("patches", "logits")}
    engines = rows[0]["steps"]
    pairs = {pair: sum(row["same_answer"][pair] for row in rows) for pair in rows[0]["same_answer"]}
    return {
        **sums,
        "steps": {name: max(row["steps"][name] for row in rows) for name in engines},
        "logits_off": {name: sum(row["logits_off"][name] for row in rows) for name in engines},
        "rules_apart": max(row["rules_apart"] for row in rows),
        "same_answer": pairs,
        "least_argmax_agreement": min(pairs.values()) / sums["patches"],
    }


def micro_arena_bytes(tflite):
    """What tflite-micro's interpreter says that it needs of RAM; None where it is not installed."""
    if not parity.has_micro():
        return None
    interpreter = parity.micro_interpreter(tflite)
    interpreter.invoke()
    with tempfile.TemporaryFile() as log:  # it prints from C
        stderr = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            interpreter.print_allocations()
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        log.seek(0)
        return int(re.search(rb"Arena allocation total (\d+)", log.read())[1])


def measure(args):
    x = recorded_patches(args.data, max(args.patches, N_CALIBRATION), cache=args.cache)
    rows, nets = table(x, args.rounds)
    ours = {(row["net"], row["format"]): row for row in rows if row["writer"] == "ours"}
    formats = ("tflite", "onnx")
    judged = {name: agreement(nets[name], x[: args.patches]) for name in ("CR+DC", "wide DC")}
    for path in args.run:
        judged[str(path)] = agreement(*held_out(load_run(path), args.data, args.cache))
    if len(args.run) > 1:
        judged["all runs"] = together([judged[str(path)] for path in args.run])
    return {
        "three_wide_dc_bytes": {fmt: 3 * ours["wide DC", fmt]["bytes"] for fmt in formats},
        "overhead_bytes": {fmt: ours["CR+DC", fmt]["beyond_weights"] for fmt in formats},
        "agreement": judged,
        "micro_arena_bytes": {name: micro_arena_bytes(tflite_bytes(net)) for name, net in nets.items()},
        "table": rows,
    }


def text(result):
    """`measure`'s result for a terminal."""
    lines = [f"{'net':<9}{'writer':<24}{'format':<8}{'bytes':>9}{'beyond weights':>16}{'ms':>8}{'x ours':>8}"]
    for r in result["table"]:
        lines.append(
            f"{r['net']:<9}{r['writer']:<24}{r['format']:<8}{r['bytes']:>9,}{r['beyond_weights']:>16,}"
            f"{r['ms']:>8.2f}{r['times_ours']:>8.2f}"
        )
    lines.append("")
    for key in ("three_wide_dc_bytes", "overhead_bytes", "micro_arena_bytes"):
        lines.append(f"{key}: " + ", ".join(f"{k} {v:,}" if v else f"{k} -" for k, v in result[key].items()))
    for name, judged in result["agreement"].items():
        steps = ", ".join(f"{engine} {n} ({judged['logits_off'][engine]})" for engine, n in judged["steps"].items())
        lines.append(
            f"{name}: steps from the reference (and logits that differ) over {judged['patches']} patches, "
            f"{judged['logits']:,} logits: {steps}; the two references {judged['rules_apart']} apart; "
            f"same answer of any two: {judged['least_argmax_agreement']:.2%} at least"
        )
    for name in sorted(set(converters.TFLITE_CONVERTERS) - set(converters.installed())):
        lines.append(f"{name} is not installed: the table lacks its files (pip install tensorflow-cpu litert-torch)")
    if not parity.has_micro():
        lines.append("tflite-micro is not installed: pip install tflite-micro adds it as a judge")
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.files", description=__doc__.split("  ")[0])
    parser.add_argument("--data", type=Path, default=RECORDINGS, help="recordings (default: those that ship)")
    parser.add_argument("--patches", type=int, default=32, help="patches to compare engines on (default 32)")
    parser.add_argument("--rounds", type=int, default=30, help="inferences per file for the latencies (default 30)")
    parser.add_argument(
        "--run", type=Path, action="append", default=[], help="trained run to compare on its held-out fold"
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help="where features are kept")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    args = parser.parse_args(argv)
    result = measure(args)
    print(json.dumps(result, indent=1) if args.json else text(result))


if __name__ == "__main__":
    command.run(main)
