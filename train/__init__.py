"""Labelled recordings to a trained net: data sets, architectures, the one training loop."""

import runtime  # noqa: F401  before the rest: it sets how many threads numpy takes, and how Ctrl-C ends a command
