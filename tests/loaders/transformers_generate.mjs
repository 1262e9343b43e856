// Transformers.js on folders, greedily; as optimum_generate.py says. Run where @huggingface/transformers is installed.
import { readFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { createRequire } from 'node:module';

const library = createRequire(`${process.cwd()}/`)('@huggingface/transformers');
const { AutoModelForCausalLM, AutoModelForSeq2SeqLM, Tensor, env } = library;
env.allowRemoteModels = false;
const tensor = (rows) => new Tensor('int64', rows.flat().map(BigInt), [rows.length, rows[0].length]);
const answers = {};
for (const [folder, asked] of Object.entries(JSON.parse(readFileSync(0, 'utf8')))) {
    env.localModelPath = dirname(folder);
    const two = JSON.parse(readFileSync(`${folder}/config.json`, 'utf8')).is_encoder_decoder;
    const model = await (two ? AutoModelForSeq2SeqLM : AutoModelForCausalLM).from_pretrained(basename(folder));
    answers[folder] = [];
    for (const { ids, mask, new: count } of asked) {
        const made = await model.generate({
            input_ids: tensor(ids), attention_mask: tensor(mask), do_sample: false, max_new_tokens: count,
            min_new_tokens: count,
        });
        answers[folder].push(made.tolist().map((row) => row.map(Number)));
    }
}
console.log(JSON.stringify(answers));
