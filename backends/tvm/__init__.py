"""The TVM backend: one shared library per bundle, whose kernels are written in TensorIR for the chip at hand."""
