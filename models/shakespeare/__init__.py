"""A small language model of Shakespeare's works, trained in f32 by `train.py`: what quantisation is judged on."""
