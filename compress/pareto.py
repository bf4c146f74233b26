"""What a search found, as text and as a picture: validation accuracy against bytes, RAM and MACs."""

import io

from compress.shapes import Shape

COSTS = {"bytes": "file, KB", "ram_bytes": "tensor arena, KB", "macs": "million MACs of a patch"}
UNITS = {"bytes": 1024, "ram_bytes": 1024, "macs": 1e6}
COLOURS = {"mel": "tab:blue", "gam": "tab:orange", "cqt": "tab:green"}


def front(points):
    """(cost, quality) pairs -> indices of those that no other beats: none is as cheap and better, or cheaper and as good.

    In the order of their cost; of equal points the first.
    """
    best, found = float("-inf"), []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[i][1] > best:
            best = points[i][1]
            found.append(i)
    return found


def finished(trials):
    """Rows of compress.study that were trained to the end, with "bytes" of the larger format."""
    done = [row for row in trials if row["state"] == "complete"]
    return [row | {"bytes": max(row["tflite"], row["onnx"])} for row in done]


def text(nets):
    """{spectrogram: {"trials": rows, "finalists": [...]}} -> tables: the front of the trials, the finalists."""
    lines = []
    for name, found in nets.items():
        done = finished(found["trials"])
        pruned = sum(row["state"] == "pruned" for row in found["trials"])
        lines += [f"{name}: {len(done)} trials to their end, {pruned} given up", "  accuracy against bytes, trials:"]
        for i in front([(row["bytes"], row["accuracy"]) for row in done]):
            row = done[i]
            shape = Shape.from_json({key: row[key] for key in _FIELDS})
            lines.append(_line(row, row["log_loss"], row["accuracy"], f"trial {row['trial']}: {shape}"))
        lines.append("  finalists, trained to the end, on clips that no trial was scored on:")
        for finalist in found["finalists"]:
            cost = finalist["costs"] | {"bytes": max(finalist["costs"]["tflite"], finalist["costs"]["onnx"])}
            what = f"{Shape.from_json(finalist['shape'])}{', the shipped proportions' if finalist['shipped'] else ''}"
            lines.append(_line(cost, finalist["log_loss"], finalist["accuracy"], what))
    return "\n".join(lines)


_FIELDS = ("widths", "decomposed", "n_bands", "n_frames", "hop_length", "win_length", "quietest_db")


def _line(cost, log_loss, accuracy, what):
    return (
        f"  {cost['bytes']:>8,} bytes  {cost['ram_bytes'] / 1024:>6,.0f} KB RAM  {cost['macs'] / 1e6:>6.1f} MMAC  "
        f"log loss {log_loss:.3f}  {accuracy:>6.1%}  {what}"
    )


def png(nets):
    """{spectrogram: {"trials": rows, "finalists": [...]}} -> bytes of a PNG, one panel per cost."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2), layout="constrained")
    axes = figure.subplots(1, len(COSTS), sharey=True)
    for ax, (cost, label) in zip(axes, COSTS.items()):
        for name, found in nets.items():
            rows = finished(found["trials"])
            points = [(row[cost] / UNITS[cost], 100 * row["accuracy"]) for row in rows]
            chosen = [p for p, row in zip(points, rows) if row["trial"] == found["finalists"][0]["trial"]]
            shipped = [f["trial"] for f in found["finalists"] if f["shipped"]]
            usual = [p for p, row in zip(points, rows) if row["trial"] in shipped]
            best = [points[i] for i in front(points)]
            colour = COLOURS.get(name)
            ax.scatter(*zip(*points), s=14, color=colour, alpha=0.45, linewidths=0)
            ax.step(*zip(*best), where="post", color=colour, label=name)
            for marker, marked in (("D", usual), ("*", chosen)):
                ax.scatter(
                    *zip(*marked or [(float("nan"),) * 2]), marker=marker, s=130 if marker == "*" else 45,
                    facecolor="none" if marker == "D" else colour, edgecolor="black", linewidths=0.8, zorder=3,
                )  # fmt: skip
        ax.set_xlabel(label)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy on the inner validation clips, %")
    handles, names = axes[0].get_legend_handles_labels()
    mark = {"facecolor": "none", "edgecolor": "black"}
    handles += [axes[0].scatter([], [], marker="D", s=45, **mark), axes[0].scatter([], [], marker="*", s=130, **mark)]
    figure.legend(handles, [*names, "shipped proportions", "chosen"], loc="outside lower center", ncols=5, fontsize=9)
    figure.suptitle("Trials of the search, short trainings; lines: no other is as small and better", fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
