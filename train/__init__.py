"""Labelled recordings to a trained net: data sets, architectures, the one training loop."""

import runtime  # noqa: F401  before torch loads numpy: it sets how many threads numpy takes
