// Values of one node of a TensorFlow.js graph model, by TensorFlow.js itself on one CPU thread.
//
//     NODE_PATH=DIR/node_modules node benchmarks/tfjs_run.js MODEL.json OUTPUT SIDE IN.f32 OUT.f32
//
// IN.f32: pictures [N, SIDE, SIDE, 3] as the network reads them; OUT.f32: the node's values, little-endian floats.
const fs = require('fs');
const path = require('path');
const tf = require('@tensorflow/tfjs');

async function main([model, output, side, input, out]) {
  const json = JSON.parse(fs.readFileSync(model));
  const files = json.weightsManifest.flatMap((group) => group.paths);
  const bytes = Buffer.concat(files.map((file) => fs.readFileSync(path.join(path.dirname(model), file))));
  const artifacts = {
    modelTopology: json.modelTopology,
    format: json.format,
    weightSpecs: json.weightsManifest.flatMap((group) => group.weights),
    weightData: bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength),
  };
  await tf.setBackend('cpu');
  const network = await tf.loadGraphModel({ load: async () => artifacts });
  const raw = fs.readFileSync(input);
  const values = new Float32Array(raw.buffer, raw.byteOffset, raw.byteLength / 4);
  const pixels = side * side * 3;
  const found = [];
  for (let start = 0; start < values.length; start += pixels) {
    const picture = tf.tensor4d(values.slice(start, start + pixels), [1, +side, +side, 3]);
    found.push(...network.execute(picture, output).dataSync());
  }
  fs.writeFileSync(out, Buffer.from(new Float32Array(found).buffer));
}

main(process.argv.slice(2));
