"""The twin of `shakespeare` with experts, trained in f32 by `train.py`: a router whose choices mean something."""
