"""TVM's kernels for NVIDIA GPUs: the same walk and the same schedules, other kernels and another way to run them."""
