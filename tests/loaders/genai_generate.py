"""Run in an environment of its own: onnxruntime-genai on folders, greedily; as optimum_generate.py says.

It pads on the right, and knows padding by its id; so the rows are turned around for it, and their answers back.
"""

import json
import sys

import numpy as np
import onnxruntime_genai as og


def answers(folder, asked):
    model = og.Model(folder)
    with open(f"{folder}/genai_config.json") as file:
        pad = json.load(file)["model"]["pad_token_id"]
    for row in asked:
        ids, mask = np.array(row["ids"], np.int32), np.array(row["mask"], bool)
        right = np.full_like(ids, pad)
        for turned, text, real in zip(right, ids, mask, strict=True):
            turned[: real.sum()] = text[real]
        params = og.GeneratorParams(model)
        length = ids.shape[1] + row["new"]
        params.set_search_options(batch_size=len(ids), do_sample=False, max_length=length, min_length=length)
        generator = og.Generator(model, params)
        generator.append_tokens(right)
        while not generator.is_done():
            generator.generate_next_token()
        new = [np.asarray(generator.get_sequence(i))[ids.shape[1] :].tolist() for i in range(len(ids))]
        yield [[*text, *more] for text, more in zip(ids.tolist(), new, strict=True)]


print(json.dumps({folder: list(answers(folder, asked)) for folder, asked in json.load(sys.stdin).items()}))
