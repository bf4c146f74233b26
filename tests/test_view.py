"""runtime.view on a real pseudo-terminal, whose screen a small model keeps: what stands there is what is judged."""

import dataclasses
import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import threading
import time
import tty
import unicodedata

import numpy as np
import pytest

from runtime.bundle import Bundle
from runtime.decide import Decision
from runtime.faults import Faults
from runtime.outputs import OutputError
from runtime.view import View

PATIENCE_S = 60


class Screen:
    """A terminal of fixed size that knows what View uses and refuses all else: unknown sequences, scrolling, wrapping."""

    def __init__(self, columns, rows):
        self.columns, self.rows = columns, rows
        self.seen = self._rest = ""
        self.is_second, self.cursor_hidden = False, False
        self.cells, self.styles, self.at = {}, {}, (1, 1)  # (row, column) -> sign; of the second screen
        self.first_screen = ""
        self._style = ""

    def feed(self, text):
        self.seen += text
        self._rest += text
        while match := re.match(r"\x1b\[(\?)?([\d;]*)([A-Za-z])|[^\x1b]", self._rest):
            self._rest = self._rest[match.end() :]
            if match[3]:
                self._obey(match[1] or "", match[2], match[3])
            else:
                self._put(match[0])

    def _obey(self, private, numbers, verb):
        if private + verb in ("?h", "?l"):
            assert numbers in ("1049", "25")
            if numbers == "25":
                self.cursor_hidden = verb == "l"
            else:
                self.is_second = verb == "h"
        elif verb == "H":
            row, column = map(int, numbers.split(";"))
            assert 1 <= row <= self.rows and 1 <= column <= self.columns
            self.at = (row, column)
        elif verb == "J":
            assert numbers == "2"
            self.cells, self.styles = {}, {}
        else:
            assert verb == "m" and not private, f"{private}{numbers}{verb}"
            self._style = "" if numbers == "0" else numbers

    def _put(self, sign):
        if not self.is_second:
            self.first_screen += sign
            return
        assert sign.isprintable() and not unicodedata.combining(sign), repr(sign)
        row, column = self.at
        width = 2 if unicodedata.east_asian_width(sign) in "WF" else 1
        assert column + width - 1 <= self.columns, f"{sign!r} does not fit into row {row}: {self.line(row)}"
        self.cells[row, column], self.styles[row, column] = sign, self._style
        if width == 2:
            self.cells[row, column + 1] = ""
        self.at = (row, column + width)

    def line(self, row):
        return "".join(self.cells.get((row, column), " ") for column in range(1, self.columns + 1)).rstrip()

    @property
    def lines(self):
        return [self.line(row) for row in range(1, self.rows + 1)]


class Terminal:
    """A pseudo-terminal, read all the time. `out`: its other end, as a program's stdout."""

    def __init__(self, columns=80, rows=24, encoding="utf-8", is_read=True):
        self._master, slave = pty.openpty()
        tty.setraw(slave)  # no newline translation: the bytes as they are
        self.out = os.fdopen(slave, "w", encoding=encoding)
        self.screen, self._encoding = Screen(columns, rows), encoding
        self.resize(columns, rows)
        self.error = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        if is_read:
            self._thread.start()

    def resize(self, columns, rows):
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.columns, self.screen.rows = columns, rows

    def _read(self):
        import codecs

        decoder = codecs.getincrementaldecoder(self._encoding)()
        try:
            while data := os.read(self._master, 65536):
                self.screen.feed(decoder.decode(data))
        except OSError:  # its other end was closed
            pass
        except AssertionError as error:
            self.error = error

    def type(self, data):
        os.write(self._master, data)

    def close(self):
        """-> its screen, when all was read."""
        if not self.out.closed:
            self.out.close()
        if self._thread.is_alive():
            self._thread.join(PATIENCE_S)
        os.close(self._master)
        if self.error:
            raise self.error
        return self.screen


LABELS = ("bark", "hum", "rain", "tick")


def whole(labels, members):
    """What members that are sure of one class say of all."""
    return {name: dict.fromkeys(labels, 0.0) | {label: p} for name, (label, p) in members.items()}


def decision(p=(0.1, 0.7, 0.15, 0.05), end_s=3725.0, silent=False, labels=LABELS):
    members = {"mel": (labels[1], 0.5), "gam": (labels[1], 1.0), "cqt": (labels[0], 0.25)}
    best = int(np.argmax(p))
    return Decision(
        end_s - 5, end_s, labels[best], p[best], dict(zip(labels, p)), members, silent, whole(labels, members)
    )


@pytest.fixture(scope="module")
def bundle(small_bundle):
    return Bundle.load(small_bundle)


def picture(bundle, *args, columns=80, rows=24, encoding="utf-8", say=""):
    """One picture -> the screen after close()."""
    terminal = Terminal(columns, rows, encoding)
    view = View(bundle, terminal.out)
    if say:
        view.say(say)
    view.show(*args)
    view.close()
    return terminal.close()


def row_of(screen, word):
    (row,) = [line for line in screen.lines if word in line]
    return row


def test_what_stands_on_the_screen(bundle):
    faults = Faults(overruns=2, lost_samples=4410, unsent={"mqtt": 3})
    screen = picture(bundle, decision(), ["hum"], -32.1, 0.123, faults)
    assert screen.lines[0] == "small  1:02:05  load 12 %"
    assert screen.lines[1].startswith("level ") and screen.lines[1].endswith("-32.1 dBFS")
    assert screen.lines[1].count("█") == round(40 * (80 - 32.1) / 80)
    assert screen.lines[2] == "heard hum"
    assert screen.lines[3].split() == ["mel", "gam", "cqt", "prod"]
    assert screen.lines[5].startswith("> hum ") and screen.lines[5].endswith(" 0.70")
    assert [line[2:6].strip() for line in screen.lines[4:8]] == list(LABELS)
    assert screen.lines[8:11] == faults.sentences() and not any(screen.lines[11:])


def test_bars_are_as_long_as_the_probabilities_say(bundle):
    screen = picture(bundle, decision(p=(0, 1, 0.5, 0.25)), [], -20, 0.1, Faults())
    starts = [screen.lines[3].index(name) for name in ("mel", "gam", "cqt", "prod")]
    eighths = "▏▎▍▌▋▊▉█"

    def length(label, i):
        end = starts[i + 1] if i < 3 else -5
        return sum(eighths.index(sign) + 1 for sign in row_of(screen, label)[starts[i] : end] if sign != " ") / 8

    full = length("hum", 3)
    assert [length(label, 3) / full for label in LABELS] == pytest.approx([0, 1, 0.5, 0.25], abs=0.05)
    nets = [[length(label, i) for i in range(3)] for label in LABELS]
    width = nets[1][1]  # gam is sure of hum
    assert np.array(nets) / width == pytest.approx(np.array([[0, 0, 0.25], [0.5, 1, 0], [0] * 3, [0] * 3]), abs=0.02)


@pytest.mark.parametrize(
    "level_dbfs, share", [(-np.inf, 0), (np.nan, 0), (-200, 0), (-80, 0), (-40, 0.5), (0, 1), (6, 1)]
)
def test_the_level_s_bar(bundle, level_dbfs, share):
    assert picture(bundle, decision(), [], level_dbfs, 0.1, Faults()).lines[1].count("█") == 40 * share


def test_nothing_known_silence_and_overload_are_said(bundle):
    assert picture(bundle, decision(), [], -30, 0.1, Faults()).lines[2] == "nothing known"
    assert picture(bundle, decision(silent=True), [], -30, 0.1, Faults()).lines[2] == "nothing known: digital silence"
    assert picture(bundle, decision(), [], -30, 1.7, Faults()).lines[0].endswith("load 170 % too slow")
    assert picture(bundle, decision(), ["hum", "bark"], -30, 0.1, Faults()).lines[2] == "heard hum, bark"
    assert picture(bundle, decision(), [], -30, 0.1, Faults(), say="mqtt: x is gone").lines[8] == "mqtt: x is gone"


def test_forty_columns_hold_all_of_it(bundle):
    labels = ("crackling_fire", "helicopter", "sea_waves", "x")
    many = dataclasses.replace(bundle, labels=labels)
    screen = picture(many, decision(labels=labels), ["helicopter"], -32.1, 0.5, Faults(overruns=1), columns=40, rows=24)
    assert screen.lines[3].split() == ["mel", "gam", "cqt", "prod"]
    assert screen.lines[5].startswith("> helicopter") and screen.lines[5].endswith(" 0.70")
    assert screen.lines[1].endswith("-32.1 dBFS") and len(screen.lines[1]) <= 40


@pytest.mark.parametrize("columns, rows", [(1, 1), (10, 3), (40, 6), (41, 12), (80, 24), (300, 90)])
@pytest.mark.parametrize("n_labels", [1, 50])
def test_any_size_is_drawn_without_wrapping_or_scrolling(bundle, columns, rows, n_labels):
    labels = tuple(f"class number {n}" for n in range(n_labels + 1))
    many = dataclasses.replace(bundle, labels=labels)
    p = np.full(n_labels + 1, 0.01)
    p[n_labels] = 0.9
    faults = Faults(1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
    screen = picture(
        many, decision(tuple(p), labels=labels), [labels[0]], -32.1, 0.5, faults, columns=columns, rows=rows
    )
    if rows >= 12 and columns >= 40:
        assert row_of(screen, "0.90")  # where not all have room the likeliest ones stand there
        wanted = {"... and more": rows < 30, "missing at the end": rows >= 30}
        assert {words: words in " ".join(screen.lines) for words in wanted} == wanted


def test_long_sentences_are_wrapped(bundle):
    said = "mqtt: 127.0.0.1:1883 is gone (Unspecified error): events wait, trying again"
    screen = picture(bundle, decision(), [], -32, 0.1, Faults(clipped_samples=7), columns=40, say=said)
    assert " ".join(screen.lines[8:]).split() == [*Faults(clipped_samples=7).sentences()[0].split(), *said.split()]


def test_tmux_shows_what_the_model_of_a_screen_does(small_bundle, tmp_path):
    """A terminal that somebody else wrote."""
    tmux = shutil.which("tmux")
    if not tmux:
        pytest.skip("needs tmux")
    command = [tmux, "-S", tmp_path / "socket", "-f", "/dev/null"]
    code = tmp_path / "program.py"
    code.write_text(PROGRAM)
    program = f"PYTHONPATH={os.getcwd()} {sys.executable} {code} {small_bundle} once; cat"
    environment = os.environ | {"LC_ALL": "C.UTF-8", "TERM": "xterm"}
    start = [*command, "new-session", "-d", "-x", "60", "-y", "20", program]
    subprocess.run(start, check=True, env=environment, capture_output=True)

    def shown():
        done = subprocess.run([*command, "capture-pane", "-p"], check=True, env=environment, capture_output=True)
        return [line.rstrip() for line in done.stdout.decode().splitlines()]

    try:
        ends_at = time.monotonic() + PATIENCE_S
        while "small  0:00:01  load 10 %" not in (lines := shown()):
            assert time.monotonic() < ends_at, lines
            time.sleep(0.05)
        wanted = picture(Bundle.load(small_bundle), *shows(1), columns=60, rows=20)
        assert lines == wanted.lines
    finally:
        subprocess.run([*command, "kill-server"], check=True, env=environment)


def test_signs_of_two_cells_and_sequences_in_labels(bundle):
    labels = ("犬の声", "\x1b[31mred\x1b]0;title\x07", "e\u0301te\u0301", "a\nb\ud800")
    many = dataclasses.replace(bundle, labels=labels)
    for encoding in ("utf-8", "ascii"):
        screen = picture(many, decision(labels=labels), [labels[1]], -3, 0.5, Faults(), columns=40, encoding=encoding)
        ends = {len(line) + line.count("犬の声") * 3 for line in screen.lines[4:8]}
        assert ends == {40}  # in cells: the numbers stand below each other
        assert screen.seen.isascii() == (encoding == "ascii") and "\x07" not in screen.seen
    assert "#####" in row_of(screen, "0.70")


def test_colours_are_left_out_where_nobody_wants_them(bundle, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = picture(bundle, decision(), ["hum"], -32, 0.1, Faults(overruns=1))
    monkeypatch.setenv("NO_COLOR", "1")
    plain = picture(bundle, decision(), ["hum"], -32, 0.1, Faults(overruns=1))
    assert set(plain.styles.values()) == {""} and len(set(coloured.styles.values())) >= 4
    assert plain.lines == coloured.lines  # no colour is the only bearer of anything


def test_a_window_that_is_resized(bundle):
    terminal = Terminal(80, 24)
    view = View(bundle, terminal.out)
    for columns, rows in ((80, 24), (40, 10), (120, 40)):
        view.show(decision(), ["hum"], -32, 0.1, Faults())
        with view._changed:
            view._changed.wait_for(lambda: not view._jobs and not view._busy)
        termios.tcdrain(terminal.out.fileno())
        n_seen = -1
        while n_seen != len(terminal.screen.seen):  # the reader's pace
            n_seen = len(terminal.screen.seen)
            time.sleep(0.05)
        terminal.resize(columns, rows)
        view.show(decision(), ["hum"], -32, 0.1, Faults())
    view.close()
    screen = terminal.close()
    assert screen.lines[5].startswith("> hum") and len(screen.line(5)) <= 120
    assert [line[2:6].strip() for line in screen.lines[4:8]] == list(LABELS) and not any(screen.lines[8:])


def test_close_leaves_the_terminal_as_it_was(bundle):
    terminal = Terminal()
    view = View(bundle, terminal.out)
    view.show(decision(), [], -32, 0.1, Faults())
    view.close()
    view.close()
    terminal.out.write("$ ")
    screen = terminal.close()
    assert not screen.is_second and not screen.cursor_hidden and screen.first_screen == "$ "
    assert screen.seen.count("\x1b[?25l") == screen.seen.count("\x1b[?25h") == 1


def shows(n):
    """What PROGRAM shows at its n-th step."""
    members = {name: (LABELS[0], 0.5) for name in ("mel", "gam", "cqt")}
    return (
        Decision(0.0, float(n), LABELS[0], 0.25, dict.fromkeys(LABELS, 0.25), members, False, whole(LABELS, members)),
        [],
        -30.0,
        0.1,
        Faults(),
    )


PROGRAM = """
import fcntl, sys, termios, time
if sys.argv[2] != "once":
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from runtime.bundle import Bundle
from runtime.decide import Decision
from runtime.faults import Faults
from runtime.view import View
bundle = Bundle.load(sys.argv[1])
view = View(bundle)
for n in range(10**9):
    scores = dict.fromkeys(bundle.labels, 0.25)
    members = {m.name: (bundle.labels[0], 0.5) for m in bundle.members}
    each = {name: dict.fromkeys(bundle.labels, 0.0) | {label: p} for name, (label, p) in members.items()}
    decision = Decision(0.0, float(n), bundle.labels[0], 0.25, scores, members, False, each)
    view.show(decision, [], -30.0, 0.1, Faults())
    time.sleep(0.01)
    if n == 20 and sys.argv[2] == "crash":
        raise RuntimeError("a bug")
    if n == 1 and sys.argv[2] == "once":
        time.sleep(600)
"""


@pytest.mark.parametrize("end", ["ctrl-c", "crash"])
def test_a_program_that_ends_without_close_leaves_the_terminal_as_it_was(small_bundle, end):
    terminal = Terminal()
    settings = termios.tcgetattr(terminal.out)
    settings[3] |= termios.ISIG  # Ctrl-C is a signal again
    termios.tcsetattr(terminal.out, termios.TCSANOW, settings)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, small_bundle, end],
        stdin=terminal.out,
        stdout=terminal.out,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8", "TERM": "xterm"},
    )
    ends_at = time.monotonic() + PATIENCE_S
    while not terminal.screen.cells and process.poll() is None:
        assert time.monotonic() < ends_at
        time.sleep(0.01)
    if end == "ctrl-c":
        terminal.type(b"\x03")
    _, stderr = process.communicate(timeout=PATIENCE_S)
    screen = terminal.close()
    assert (b"KeyboardInterrupt" if end == "ctrl-c" else b"a bug") in stderr, stderr
    assert screen.lines[2] == "nothing known" and not screen.is_second and not screen.cursor_hidden


def test_a_stopped_terminal_holds_up_nothing(bundle):
    """Nobody reads it, as after Ctrl-S, and what it can hold is full: a write hangs."""
    terminal = Terminal(is_read=False)
    view = View(bundle, terminal.out)
    os.set_blocking(terminal.out.fileno(), False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(terminal.out.fileno(), b"." * 4096)
    os.set_blocking(terminal.out.fileno(), True)
    view.show(decision(), [], -32, 0.1, Faults())
    ends = time.monotonic() + PATIENCE_S
    while view._jobs and time.monotonic() < ends:
        time.sleep(0.01)
    for n in range(300):
        view.show(decision(end_s=float(n)), [], -32, 0.1, Faults())
    view.close(0.1)
    assert view._thread.is_alive() and len(view._jobs) == 0
    terminal._thread.start()  # somebody reads again: the thread ends by itself, and the terminal is restored
    view._thread.join(PATIENCE_S)
    screen = terminal.close()
    assert not screen.is_second and not screen.cursor_hidden


def test_a_terminal_that_went_away_is_said_and_survived(bundle, capsys):
    terminal = Terminal(is_read=False)
    view = View(bundle, terminal.out)
    os.close(terminal._master)
    for _ in range(3):
        view.show(decision(), [], -32, 0.1, Faults())
    view.close()
    terminal.out.close()
    said = capsys.readouterr().err
    assert said.count("view on the terminal: ") == 1 and "Input/output error" in said


def test_what_is_no_terminal_is_refused_in_one_line(bundle, tmp_path, monkeypatch):
    with (tmp_path / "out").open("w") as file, pytest.raises(OutputError, match="needs a terminal") as caught:
        View(bundle, file)
    assert "\n" not in str(caught.value)
    terminal = Terminal()
    monkeypatch.setenv("TERM", "dumb")
    with pytest.raises(OutputError, match="needs a terminal"):
        View(bundle, terminal.out)
    assert terminal.close().seen == ""
