"""Hostile input, made at random: `make fuzz MINUTES=30`, `make fuzz SEED=7 TARGET=gguf`.

What is mutated: bundles (in half of the cases with the manifest's hashes made anew), ONNX files, gguf files,
transformers folders, saved graphs, and the text of programs. The seeds are tiny models that the project makes itself at
the start. Mutations know the form of what they change (`mutate.py`, `proto.py`), or flip, cut and splice bytes.

Each case is opened, captured, compiled or run in a worker process (`worker.py`). A finding is
  - an exception that is no TundishError or ModelError,
  - a crash, a case that takes more than 10 s of CPU time or 60 s in all,
  - an allocation that fails though 2 GiB are allowed on top of what the worker took after its imports and after it had
    opened each seed once (RLIMIT_AS, against VmSize of /proc/self/statm),
  - a file that is written outside of the output's folder, read outside of the case and the installed packages, a
    process started or a connection opened (all seen by an audit hook).

A finding is one line, and a folder in build/fuzz/ with the mutated input: `python -m fuzz --again FOLDER` runs it
again. The exit code is 1 where there were any. A case depends on SEED, the target and its number alone.

One thing is outside of what a bundle defends against: ONNX Runtime's own parser meets a model file whose hash is right.
Who can make the hashes anew can as well put a model that computes something else, so a bundle is as trustworthy as its
maker; still, what is known to bring that library down is refused before it sees it. Likewise machine code: the shared
libraries of a bundle of the TVM backend are changed too, but their hashes are not made anew.
"""
