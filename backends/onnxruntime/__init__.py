"""ONNX Runtime: the portable deployment backend, and the writer of ONNX files."""
