"""What a model costs and whether a board can carry it: sizes read from files, boards as .toml, one report."""

import runtime  # noqa: F401  before the rest: it sets how many threads numpy takes, and how Ctrl-C ends a command
