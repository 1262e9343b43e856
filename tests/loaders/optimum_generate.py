"""Run in an environment of its own: optimum's ORTModelForCausalLM on a folder, greedily.

argv: the folder. stdin: JSON rows {"ids", "mask", "new"}, padded on the left. stdout, last line: JSON, all tokens of
each row's texts.
"""

import json
import sys

import torch
from optimum.onnxruntime import ORTModelForCausalLM

model = ORTModelForCausalLM.from_pretrained(sys.argv[1])
assert model.can_use_cache, "it would read the whole text again at every token"
answers = []
for row in json.load(sys.stdin):
    made = model.generate(
        input_ids=torch.tensor(row["ids"]), attention_mask=torch.tensor(row["mask"]), do_sample=False,
        max_new_tokens=row["new"], min_new_tokens=row["new"],
    )  # fmt: skip
    answers.append(made.tolist())
print(json.dumps(answers))
