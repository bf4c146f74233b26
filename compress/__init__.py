"""Trained nets -> smaller nets: budgets, and the techniques that meet them."""

import runtime  # noqa: F401  before the rest: it sets how many threads numpy takes, and how Ctrl-C ends a command
