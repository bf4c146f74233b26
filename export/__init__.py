"""Trained nets -> deployable int8 nets -> TFLite and ONNX files."""
