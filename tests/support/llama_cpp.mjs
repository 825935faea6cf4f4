// Greedy answers of llama.cpp: node llama_cpp.mjs FOLDER MODEL '{"texts": [...], "tokens": n}'
// FOLDER holds node_modules with node-llama-cpp, which brings llama.cpp compiled.
import path from "node:path";
import {pathToFileURL} from "node:url";

const [folder, modelPath, request] = process.argv.slice(2);
const library = path.join(folder, "node_modules/node-llama-cpp/dist/index.js");
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(library));
const {texts, tokens} = JSON.parse(request);
const llama = await getLlama({
    gpu: false, build: "never", logLevel: LlamaLogLevel.error, progressLogs: false, maxThreads: 1
});
const model = await llama.loadModel({modelPath});
const context = await model.createContext({contextSize: 512, threads: 1});
const sequence = context.getSequence();
const answers = [];
for (const text of texts) {
    const prompt = model.tokenize(text, true);
    const answer = [];
    await sequence.clearHistory();
    for await (const token of sequence.evaluate(prompt, {temperature: 0})) {
        if (answer.push(token) === tokens) break;
    }
    answers.push({prompt: [...prompt], answer});
}
const {bos, eos} = model.tokens;
const template = model.fileInfo.metadata.tokenizer.chat_template;
console.log(JSON.stringify({answers, bos, eos, template}));
process.exit(0);
