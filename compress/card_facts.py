"""What a model card says without scoring anything: the data and its licence, the recipe, the sizes, as Markdown."""

import json
import re
from collections import Counter
from pathlib import Path

from devices.size import conventions, read_model
from runtime import audio
from train.layouts import read_layout
from train.tables import DataError, read_table, read_text

LICENCES = re.compile(r"(licen[cs]e|attribution|copying)[^/]*", re.IGNORECASE)
QUOTED_CHARS = 700  # of a licence file


def table(head, rows):
    """Column titles, rows of anything -> a Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def runs_of(bundle):
    """-> {net: {"data", "recipe", "versions", ...}}, as the provenance says. Raises ValueError where it does not."""
    runs = bundle.provenance.get("runs") if isinstance(bundle.provenance, dict) else None
    parts = ("data", "recipe", "versions")
    if not isinstance(runs, dict) or not all(
        isinstance(run, dict) and all(isinstance(run.get(part, {}), dict) for part in parts) for run in runs.values()
    ):
        raise ValueError(f"{bundle.folder} does not say how its nets were trained: export it again")
    return runs


def data_section(path, dataset):
    """What the recordings are, where they come from, who may use them -> Markdown."""
    heads = [audio.header(clip.path) for clip in dataset.clips]
    lengths, rates = [head.n_frames / head.sr for head in heads], Counter(head.sr for head in heads)
    layout = read_layout(path)
    n_of = Counter(clip.label for clip in dataset.clips)
    lines = [
        f"`{dataset.name}`: {len(dataset.clips)} clips of {len({clip.group for clip in dataset.clips})} recordings, "
        f"{min(lengths):.1f} to {max(lengths):.1f} s, {', '.join(f'{sr} Hz ({n})' for sr, n in rates.most_common())}; "
        f"folds {', '.join(map(str, dataset.folds))}.",
        f"Source: {layout.source if layout else 'a folder per class'}.",
        f"Classes: {', '.join(f'{label} {n}' for label, n in sorted(n_of.items()))}.",
    ]
    licences = _licence_column(path)
    lines += [f"Licences of the clips: {', '.join(f'{name} {n}' for name, n in licences)}."] if licences else []
    files = sorted(item for item in Path(path).iterdir() if item.is_file() and LICENCES.fullmatch(item.name))
    for file in files:
        said = read_text(file).strip()
        if len(said) > QUOTED_CHARS:
            said = said[:QUOTED_CHARS].rpartition("\n")[0] or said[:QUOTED_CHARS]  # whole lines
        lines.append(f"`{file.name}` begins:\n\n" + "\n".join(f"> {line}" for line in said.splitlines()))
    if not licences and not files:
        lines.append("The data set's folder names no licence: ask its authors before you pass anything on.")
    return "\n\n".join(lines)


def _licence_column(path):
    """-> [(licence, clips)], the most frequent first, where an ESC table has such a column."""
    tables = sorted((Path(path) / "meta").glob("*.csv"))
    try:
        return Counter(row["licence"] for row in read_table(tables[0], ("filename", "licence"))).most_common()
    except (IndexError, DataError):
        return []


def training_section(bundle, folds):
    """Recipe, seeds and versions of the bundle's nets, and in what those of the folds differ -> Markdown.

    folds: {name of a runs folder: the Bundle of one of its folds}.
    """
    facts = runs_of(bundle)
    lines = []
    for name, run in facts.items():
        data, fold = run.get("data", {}), run.get("data", {}).get("fold")
        heard = f"every clip but fold {fold}" if fold else "every clip"
        recipe = ", ".join(f"{key} {value}" for key, value in run.get("recipe", {}).items())
        lines.append(f"- {name}: {heard} of `{data.get('name')}` ({data.get('n_train')}); {recipe}{_taught(run)}")
    versions = {json.dumps(run.get("versions", {}), sort_keys=True) for run in facts.values()}
    lines.append(
        "- made with " + "; ".join(", ".join(f"{k} {v}" for k, v in json.loads(text).items()) for text in versions)
    )
    for name, fold in folds.items():
        others = runs_of(fold)
        apart = sorted(
            {
                f"{key} {mine.get(key)} here, {theirs.get(key)} there"
                for mine, theirs in ((_way(run), _way(others.get(net, {}))) for net, run in facts.items())
                for key in {*mine, *theirs}
                if mine.get(key) != theirs.get(key)
            }
        )
        lines.append(f"- the folds of `{name}`: " + ("; ".join(apart) if apart else "the same recipe, fold by fold"))
    return "\n".join(lines)


def _way(run):
    """-> {word: value} of how a net of the provenance was trained."""
    qat = {f"int8 training's {key}": value for key, value in (run.get("qat") or {}).items()}
    pruned = {"pruned from widths": (run.get("pruned") or {}).get("widths")}
    return run.get("recipe", {}) | qat | pruned | {"teachers": len(run.get("teachers", []))}


def _taught(run):
    """Whom a net of the provenance has learned from."""
    teachers = run.get("teachers", [])
    named = [f"{t.get('net')} on {t.get('frontend')} ({t.get('parameters', 0):,} parameters)" for t in teachers]
    return f"; taught by the geometric mean of {', '.join(named)}" if named else ""


def size_section(bundle):
    """Bytes, parameters, MACs, RAM of each file, and DCASE's rules -> Markdown."""
    rows, models = [], []
    for member in bundle.members:
        model = read_model(member.path(bundle.format))
        models.append(model)
        rows.append([
            member.name, f"{model.file_bytes:,}", f"{model.parameters:,}", model.precision, f"{model.macs / 1e6:.1f}",
            f"{model.peak_activation_bytes / 1024:,.0f}", f"{model.arena_bytes / 1024:,.0f}",
        ])  # fmt: skip
    total = ["all", f"{sum(m.file_bytes for m in models):,}", f"{sum(m.parameters for m in models):,}", "",
             f"{sum(m.macs for m in models) / 1e6:.1f}", f"{max(m.peak_activation_bytes for m in models) / 1024:,.0f}",
             f"{max(m.arena_bytes for m in models) / 1024:,.0f}"]  # fmt: skip
    head = [
        f"{bundle.format} file",
        "bytes",
        "parameters",
        "weights",
        "MMAC of a patch",
        "RAM, layers, KiB",
        "arena, KiB",
    ]
    rules = [f"{row['year']} {'passes' if row['verdict'] == 'fits' else 'fails'}" for row in conventions(*models)]
    return f"{table(head, [*rows, total])}\n\nDCASE's low-complexity rules, one pass of every net: {', '.join(rules)}."
