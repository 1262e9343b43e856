"""Kernels of GPUs: each thread block does a part of the work, its threads by way of shared memory and shuffles."""
