// Values of one layer of a TensorFlow.js layers model, by TensorFlow.js itself on the CPU.
// NODE_PATH's folder has @tensorflow/tfjs and @tensorflow/tfjs-backend-wasm.
//
//     NODE_PATH=DIR/node_modules node benchmarks/tfjs_layers_run.js FOLDER LAYER SIDE IN.f32 OUT.f32
//
// FOLDER holds the model as modules, as nsfwjs ships it: model.min.js and its shards. They are run here.
// IN.f32: pictures [N, SIDE, SIDE, 3] as the network reads them; OUT.f32: the layer's values, little-endian floats.
const fs = require('fs');
const path = require('path');
const tf = require('@tensorflow/tfjs');
const wasm = require('@tensorflow/tfjs-backend-wasm');

async function main([folder, layer, side, input, out]) {
  const load = (name) => require(path.resolve(folder, `${name}.min.js`));
  const json = load('model');
  const shards = json.weightsManifest.flatMap((group) => group.paths);
  const bytes = Buffer.concat(shards.map((name) => Buffer.from(load(name), 'base64')));
  const artifacts = {
    modelTopology: json.modelTopology,
    weightSpecs: json.weightsManifest.flatMap((group) => group.weights),
    weightData: bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength),
  };
  wasm.setWasmPaths(path.dirname(require.resolve('@tensorflow/tfjs-backend-wasm')) + path.sep);
  await tf.setBackend('wasm');
  const whole = await tf.loadLayersModel({ load: async () => artifacts });
  const network = tf.model({ inputs: whole.inputs, outputs: whole.getLayer(layer).output });
  const raw = fs.readFileSync(input);
  const values = new Float32Array(raw.buffer, raw.byteOffset, raw.byteLength / 4);
  const pixels = side * side * 3;
  const found = [];
  for (let start = 0; start < values.length; start += pixels) {
    const picture = tf.tensor4d(values.slice(start, start + pixels), [1, +side, +side, 3]);
    found.push(...network.predict(picture).dataSync());
  }
  fs.writeFileSync(out, Buffer.from(new Float32Array(found).buffer));
}

main(process.argv.slice(2));
