"""Kernels in TensorIR: each module is a family, each function in it makes one kernel from static sizes.

A kernel is a function of `Body` that writes TensorIR; `script` says what it is given. Sizes that a model fixes (the
inner and outer size of a weight, heads) are parameters of the maker, those that vary are read when it runs.
"""
