"""Run in an environment of its own: optimum's ORTModelForCausalLM on folders, greedily.

stdin: JSON, folder -> rows {"ids", "mask", "new"}, padded on the left. stdout, last line: JSON, folder -> for each row
of rows its texts' tokens, prompt and all.
"""

import json
import sys

import torch
from optimum.onnxruntime import ORTModelForCausalLM


def answers(folder, asked):
    model = ORTModelForCausalLM.from_pretrained(folder)
    assert model.can_use_cache, "it would read the whole text again at every token"
    for row in asked:
        yield model.generate(
            input_ids=torch.tensor(row["ids"]), attention_mask=torch.tensor(row["mask"]), do_sample=False,
            max_new_tokens=row["new"], min_new_tokens=row["new"],
        ).tolist()  # fmt: skip


print(json.dumps({folder: list(answers(folder, asked)) for folder, asked in json.load(sys.stdin).items()}))
