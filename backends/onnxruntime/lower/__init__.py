"""fx straight to ONNX: one file per family of operators, each operator registered under its name."""
