"""A live picture of the stream in a terminal: what is heard, what each net makes of it, level, load, faults.

    view = View(bundle)
    view.show(decision, detector.heard, level_dbfs=-32, load=0.1, faults=source.faults)
    view.close()

ANSI sequences alone, on the terminal's second screen; 40 columns are enough. Without colours where NO_COLOR is set
(https://no-color.org), without block characters where the terminal's encoding has none.
"""

import atexit
import os
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import TextIO

from runtime.bundle import Bundle
from runtime.decide import Decision
from runtime.events import Event
from runtime.faults import Faults
from runtime.outputs import Output, OutputError, to_stderr

FLOOR_DBFS = -80.0  # the left end of the level's bar
LOUD_DBFS = -3.0
EIGHTHS = " ▏▎▍▌▋▊▉█"
STYLES = {"heard": "1;32", "fused": "36", "net": "2;36", "quiet": "2", "fault": "33", "alarm": "1;31"}
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l\x1b[2J", "\x1b[?25h\x1b[?1049l"  # second screen, cursor hidden; and back
CLOSE_S = 1.0

Row = list[tuple[str, str]]  # (text, key of STYLES or "")


class View(Output):
    """Draws in a thread of its own, the newest picture only: a terminal that is slow or stopped (Ctrl-S) holds up nothing.

    Raises OutputError where `out` is no terminal.
    """

    name = "view"

    def __init__(self, bundle: Bundle, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        super().__init__("on the terminal", to_stderr, CLOSE_S)
        if not self._out.isatty() or os.environ.get("TERM") == "dumb":
            raise OutputError("the live view needs a terminal: leave it out, or do not redirect the output")
        self._title, self._fuse = bundle.folder.resolve().name, bundle.fuse
        self._has_color = not os.environ.get("NO_COLOR")
        self._encoding = self._out.encoding or "ascii"
        self._steps = EIGHTHS if "utf" in self._encoding.lower() else " #"
        self._labels = {label: self._plain(label) for label in bundle.labels}
        self._nets = [member.name for member in bundle.members]
        self._said = ""
        self._is_open = False
        self._out.flush()
        atexit.register(self.close)  # whatever ends the program, the terminal is left as it was
        self.start()

    def event(self, event: Event) -> None:
        """The picture does not show single events."""

    def say(self, line: str) -> None:
        """One line below the picture, until the next one: while the view is open nobody else may write here."""
        self._said = line

    def show(self, decision: Decision, heard: Sequence[str], level_dbfs: float, load: float, faults: Faults) -> None:
        """heard: labels of the events that last; load: the share of real time that the stream takes. Returns at once."""
        width, height = self._measure()
        top = self._head(decision, heard, level_dbfs, load, width)
        below = self._wrapped(faults.sentences(), "fault", width, max(1, height // 3))
        below += self._wrapped([self._said], "quiet", width, 3)
        classes = self._classes(decision, heard, width, max(1, height - len(top) - len(below) - 1))
        rows = [*top, *classes, *below][:height]
        # Each row in its place and to its full width: nothing scrolls, nothing of the last picture stays.
        rows += [[]] * (height - len(rows))
        text = "".join(f"\x1b[{i + 1};1H{self._row(row, width)}" for i, row in enumerate(rows))
        with self._changed:
            self._jobs.clear()  # the last picture, if it is still waiting
            self._jobs.append(text)
            self._changed.notify_all()

    def close(self, within_s: float | None = None) -> None:
        super().close(within_s)
        atexit.unregister(self.close)

    def deliver(self, job: str) -> None:
        self._write(job if self._is_open else ENTER + job)
        self._is_open = True

    def leave(self) -> None:
        if self._is_open:
            self._write(LEAVE)

    def _write(self, text: str) -> None:
        data = text.encode(self._encoding)  # past the file's buffer: what a dead terminal did not take must not pile up
        while data:
            data = data[os.write(self._out.fileno(), data) :]

    def _measure(self) -> tuple[int, int]:
        """-> columns, rows; as they are now: windows are resized."""
        try:
            size = os.get_terminal_size(self._out.fileno())
        except OSError:  # the terminal is gone: deliver() will say so
            return 80, 24
        return size.columns or 80, size.lines or 24

    def _head(self, decision: Decision, heard: Sequence[str], level_dbfs: float, load: float, width: int) -> list[Row]:
        seconds = int(decision.end_s)
        clock = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        title: Row = [(f"{self._title}  {clock}  ", ""), (f"load {100 * load:.0f} %", "alarm" if load > 1 else "")]
        if load > 1:
            title.append((" too slow", "alarm"))
        level = max(level_dbfs, FLOOR_DBFS) if level_dbfs == level_dbfs else FLOOR_DBFS
        bar = self._bar(1 - level / FLOOR_DBFS, max(4, min(40, width - 18)))
        style = "alarm" if level > LOUD_DBFS else "fused"
        meter: Row = [("level ", ""), (bar, style), (f" {level:5.1f} dBFS", "" if style == "fused" else style)]
        if heard:
            what: Row = [("heard ", ""), (", ".join(heard), "heard")]
        else:
            what = [("nothing known" + (": digital silence" if decision.silent else ""), "quiet")]
        return [title, meter, what]

    def _classes(self, decision: Decision, heard: Sequence[str], width: int, n_rows: int) -> list[Row]:
        """A row per class, of the likeliest ones where there is no room for all."""
        name_width = min(max(map(_cells, self._labels.values())), 20, width // 3)
        room = width - name_width - 8  # the marker, the number and the spaces between
        net_width = min(10, room // (len(self._nets) + 2))
        nets = self._nets if net_width >= 3 else []
        fused_width = max(1, room - len(nets) * (net_width + 1))
        likeliest = sorted(self._labels, key=lambda label: -decision.scores[label])[: max(1, n_rows - 1)]
        heading = [("  " + _fit("", name_width), "")] + [(" " + _fit(name, net_width), "quiet") for name in nets]
        rows: list[Row] = [[*heading, (f" {self._fuse}", "quiet")]]
        for label, shown in self._labels.items():
            if label in likeliest:
                is_heard = label in heard
                row: Row = [(("> " if is_heard else "  ") + _fit(shown, name_width), "heard" * is_heard)]
                for name in nets:
                    row.append((" " + self._bar(decision.member_scores[name][label], net_width), "net"))
                p = decision.scores[label]
                row += [(" " + self._bar(p, fused_width), "heard" if is_heard else "fused"), (f" {p:.2f}", "")]
                rows.append(row)
        return rows

    def _wrapped(self, sentences: Sequence[str], style: str, width: int, most: int) -> list[Row]:
        lines = [line for sentence in sentences for line in textwrap.wrap(self._plain(sentence), width)]
        if len(lines) > most:
            lines[most - 1 :] = ["... and more"]
        return [[(line, style)] for line in lines]

    def _bar(self, share: float, width: int) -> str:
        """0..1 -> so many cells."""
        n_steps = len(self._steps) - 1
        full, rest = divmod(round(min(max(share, 0), 1) * width * n_steps), n_steps)
        return (self._steps[-1] * full + self._steps[rest] * (rest > 0)).ljust(width)

    def _row(self, row: Row, width: int) -> str:
        """-> exactly so many cells, coloured."""
        text, left = "", width
        for part, style in row:
            part = self._plain(part)
            n_cells = min(left, _cells(part))
            left -= n_cells
            part = _fit(part, n_cells)
            text += f"\x1b[{STYLES[style]}m{part}\x1b[0m" if style and self._has_color else part
        return text + " " * left

    def _plain(self, text: str) -> str:
        """What the terminal can show in one cell or two. Labels come from a file: no sequence of theirs gets through."""
        if not text.isascii():
            text = "".join("?" if unicodedata.category(c)[0] == "M" else c for c in text)  # signs without a width
            text = text.encode(self._encoding, "replace").decode(self._encoding)
        return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _cells(text: str) -> int:
    """Columns that a terminal gives it: two for East Asian wide signs."""
    return len(text) if text.isascii() else sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _fit(text: str, width: int) -> str:
    """Cut or padded to so many cells."""
    text = text[:width]
    while _cells(text) > width:
        text = text[:-1]
    return text + " " * (width - _cells(text))
