"""Measurements of the project itself; each file is a command."""

import runtime  # noqa: F401  before the rest: it sets how many threads numpy takes, and how Ctrl-C ends a command
