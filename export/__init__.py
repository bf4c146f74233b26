"""Trained nets -> deployable int8 nets -> TFLite and ONNX files."""

import runtime  # noqa: F401  before the rest: it sets how many threads numpy takes, and how Ctrl-C ends a command
