// Transformers.js on a folder, greedily; as optimum_generate.py says. Run where @huggingface/transformers is installed.
import { readFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { createRequire } from 'node:module';

const { AutoModelForCausalLM, Tensor, env } = createRequire(`${process.cwd()}/`)('@huggingface/transformers');
const folder = process.argv[2];
env.allowRemoteModels = false;
env.localModelPath = dirname(folder);

const tensor = (rows) => new Tensor('int64', rows.flat().map(BigInt), [rows.length, rows[0].length]);
const model = await AutoModelForCausalLM.from_pretrained(basename(folder));
const answers = [];
for (const { ids, mask, new: count } of JSON.parse(readFileSync(0, 'utf8'))) {
    const made = await model.generate({
        input_ids: tensor(ids), attention_mask: tensor(mask), do_sample: false, max_new_tokens: count,
        min_new_tokens: count,
    });
    answers.push(made.tolist().map((row) => row.map(Number)));
}
console.log(JSON.stringify(answers));
