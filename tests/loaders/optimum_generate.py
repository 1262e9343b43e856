"""Run in an environment of its own: optimum's ORTModelForCausalLM, or ORTModelForSeq2SeqLM, on folders, greedily.

stdin: JSON, folder -> rows {"ids", "mask", "new"}, padded on the left. stdout, last line: JSON, folder -> for each row
of rows its texts' tokens, prompt and all.
"""

import json
import sys

import torch
from optimum.onnxruntime import ORTModelForCausalLM, ORTModelForSeq2SeqLM


def answers(folder, asked):
    with open(f"{folder}/config.json") as file:
        two = json.load(file)["is_encoder_decoder"]
    model = (ORTModelForSeq2SeqLM if two else ORTModelForCausalLM).from_pretrained(folder)
    assert (model.decoder if two else model).can_use_cache, "it would read the whole text again at every token"
    for row in asked:
        yield model.generate(
            input_ids=torch.tensor(row["ids"]), attention_mask=torch.tensor(row["mask"]), do_sample=False,
            max_new_tokens=row["new"], min_new_tokens=row["new"],
        ).tolist()  # fmt: skip


print(json.dumps({folder: list(answers(folder, asked)) for folder, asked in json.load(sys.stdin).items()}))
