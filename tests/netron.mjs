// What Netron, a foreign reader of model files, finds in some: a line of JSON each. node netron.mjs FOLDER FILE...
// FOLDER: where its sources are, as `pip install netron` lays them down.
import { readFile } from 'fs/promises';
import { basename, join } from 'path';
import { pathToFileURL } from 'url';

const [folder, ...files] = process.argv.slice(2);
const source = (id) => import(pathToFileURL(join(folder, `${id}.js`)).href);
const raise = (error) => { throw error; };
const asset = async (name) => readFile(join(folder, name), 'utf-8');  // its tables of operators
globalThis.window = globalThis;  // it expects a browser
const base = await source('base');
const view = await source('view');
const host = { require: source, asset, request: asset, environment: () => undefined, event: () => {}, exception: raise };

for (const file of files) {
    const stream = new base.BinaryStream(new Uint8Array(await readFile(file)));
    const fetch = (name) => raise(new Error(`${file} asks for ${name}`));
    const context = { identifier: basename(file), stream, asset, request: asset, require: source, fetch, error: raise };
    const model = await new view.ModelFactoryService(host).open(context);
    const [graph] = model.modules;
    const types = (values) => values.map((value) => value.value.map((each) => each.type.toString()));
    const stored = graph.nodes.flatMap((node) => node.inputs).flatMap((input) => input.value).filter((v) => v.initializer);
    console.log(JSON.stringify({
        format: model.format,
        nodes: graph.nodes.map((node) => node.type.name),
        ends: [types(graph.inputs), types(graph.outputs)],
        stored: [...new Set(stored.map((value) => value.initializer.type.toString()))],
    }));
}
