// emoji-llava's text encoder in plain JavaScript, and the playground's answers that need nothing but texts. A small
// Llama: RMSNorm, rotary positions, causal attention, SwiGLU; the summary token's state is the embedding. Weights come
// from the element #weights, and all else from the JSON in #encoder; docs/browser_playground.py writes both.
const setup = JSON.parse(document.getElementById("encoder").textContent);
const MAX_TOKENS = 128; // of a caption; time grows with its length
const ONLY_TEXT = "images need Python: only what you type is scored on this page";
const OLD_BROWSER = "this browser cannot unpack the text encoder: update it. Browsing works without.";

// Seven bits a character, the lowest first; the three that HTML changes are written as others with the same low bits.
function bytesOf(text, count) {
  const bytes = new Uint8Array(count);
  for (let i = 0, at = 0, held = 0, bits = 0; at < count; i++) {
    held |= (text.charCodeAt(i) & 127) << bits;
    bits += 7;
    if (bits >= 8) { bytes[at++] = held & 255; held >>= 8; bits -= 8; }
  }
  return bytes;
}
// Return all tensors by name: quantized ones are stored as three planes of bytes, the others as float32.
async function unpackTensors() {
  if (typeof DecompressionStream === "undefined") throw new Error(OLD_BROWSER);
  const node = document.getElementById("weights"), packed = bytesOf(node.textContent, setup.bytes);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  node.remove(); // frees the text
  const size = ([, shape]) => shape.reduce((a, b) => a * b, 1), quantized = setup.tensors.filter((one) => one[3]).reduce((a, one) => a + size(one), 0);
  const floats = new Float32Array(bytes.slice(3 * quantized).buffer), tensors = {};
  let [at, from] = [0, 0];
  for (const tensor of setup.tensors) {
    const [name, , low, step] = tensor, n = size(tensor), values = new Float32Array(n);
    if (step) for (let i = 0; i < n; i++, at++) values[i] = step * (low + bytes[at] + 256 * bytes[quantized + at] + 65536 * bytes[2 * quantized + at]);
    else values.set(floats.subarray(from, (from += n)));
    tensors[name] = values;
  }
  return tensors;
}

// Multiply rows (n, width) by a weight (rows of `width`), and add a bias.
function linear(x, weight, bias, width) {
  const n = x.length / width, outs = weight.length / width, y = new Float32Array(n * outs);
  for (let o = 0; o < outs; o++)
    for (let t = 0, start = o * width; t < n; t++) {
      let [a, b, c, d] = [0, 0, 0, 0];
      for (let i = 0, at = t * width; i < width; i += 4) {
        a += x[at + i] * weight[start + i];
        b += x[at + i + 1] * weight[start + i + 1];
        c += x[at + i + 2] * weight[start + i + 2];
        d += x[at + i + 3] * weight[start + i + 3];
      }
      y[t * outs + o] = a + b + c + d + (bias ? bias[o] : 0);
    }
  return y;
}
function normalize(x, weight, width, eps) {
  const y = new Float32Array(x.length);
  for (let start = 0; start < x.length; start += width) {
    let total = 0;
    for (let i = 0; i < width; i++) total += x[start + i] ** 2;
    const scale = 1 / Math.sqrt(total / width + eps);
    for (let i = 0; i < width; i++) y[start + i] = x[start + i] * scale * weight[i];
  }
  return y;
}
// Turn each head's halves by the token's position; `first` is that of the first row.
function rotate(x, first, { width, headDim, theta }) {
  for (let start = 0, t = first; start < x.length; start += width, t++)
    for (let head = start; head < start + width; head += headDim)
      for (let i = 0, half = headDim / 2; i < half; i++) {
        const angle = t / theta ** (i / half), [cos, sin] = [Math.cos(angle), Math.sin(angle)], [a, b] = [x[head + i], x[head + half + i]];
        x[head + i] = a * cos - b * sin;
        x[head + half + i] = b * cos + a * sin;
      }
  return x;
}
function attend(q, k, v, first, { width, headDim }) {
  const out = new Float32Array(q.length);
  for (let t = 0; t < q.length / width; t++)
    for (let head = 0; head < width; head += headDim) {
      const scores = new Float64Array(first + t + 1);
      for (let s = 0; s < scores.length; s++) for (let i = head; i < head + headDim; i++) scores[s] += (q[t * width + i] * k[s * width + i]) / Math.sqrt(headDim);
      const peak = Math.max(...scores), weights = scores.map((x) => Math.exp(x - peak)), total = weights.reduce((a, b) => a + b, 0);
      for (let s = 0; s < weights.length; s++) for (let i = head; i < head + headDim; i++) out[t * width + i] += (weights[s] / total) * v[s * width + i];
    }
  return out;
}
// Run all layers on token ids; the last layer needs the last token only. Returns its state, of unit length.
function encodeIds(ids, weights) {
  const { width, layers, eps } = setup.shape, n = ids.length;
  let x = new Float32Array(n * width);
  ids.forEach((id, t) => x.set(weights.embed.subarray(id * width, (id + 1) * width), t * width));
  for (let l = 0; l < layers; l++) {
    const of = (name, kind = "weight") => weights[`layers.${l}.${name}.${kind}`], first = l === layers - 1 ? n - 1 : 0;
    const project = (name, rows, size) => linear(rows, of(name), of(name, "bias"), size);
    const normed = normalize(x, of("input_layernorm"), width, eps), kept = normed.subarray(first * width);
    const [q, k] = [rotate(project("self_attn.q_proj", kept, width), first, setup.shape), rotate(project("self_attn.k_proj", normed, width), 0, setup.shape)];
    const attended = project("self_attn.o_proj", attend(q, k, project("self_attn.v_proj", normed, width), first, setup.shape), width);
    x = x.subarray(first * width).map((value, i) => value + attended[i]);
    const inner = normalize(x, of("post_attention_layernorm"), width, eps), up = project("mlp.up_proj", inner, width);
    const gated = project("mlp.gate_proj", inner, width).map((g, i) => (g / (1 + Math.exp(-g))) * up[i]);
    const added = project("mlp.down_proj", gated, gated.length / (x.length / width));
    x = x.map((value, i) => value + added[i]);
  }
  const last = normalize(x.subarray(x.length - width), weights["norm.weight"], width, eps), length = Math.hypot(...last);
  return last.map((value) => value / length);
}

// The weights of each encoder by its model's name, with its LoRA merged.
async function loadEncoders() {
  const tensors = await unpackTensors(), { width } = setup.shape, embed = new Float32Array([...tensors["embed_tokens.weight"], ...tensors["embed_tokens.soft_prompt.weight"]]);
  const merged = (name, weight) => {
    const [a, b] = ["A", "B"].map((part) => tensors[name.replace(/weight$/, "") + `lora_${part}.weight`]), rank = setup.rank;
    if (!a) return weight;
    const sum = weight.slice(), ins = a.length / rank;
    for (let o = 0; o < b.length / rank; o++) for (let r = 0; r < rank; r++) for (let i = 0, part = setup.scaling * b[o * rank + r]; i < ins; i++) sum[o * ins + i] += part * a[r * ins + i];
    return sum;
  };
  return Object.fromEntries(Object.entries(setup.encoders).map(([name, { lora }]) => {
    const weights = Object.entries(tensors).filter(([key]) => !/lora_|soft_prompt|^images/.test(key)).map(([key, value]) => [key, lora ? merged(key, value) : value]);
    const images = tensors[`images.${name}`];
    return [name, { ...Object.fromEntries(weights), embed, images: (i) => images.subarray(i * width, (i + 1) * width) }];
  }));
}
let loading = null;
const encoders = () => (loading ||= loadEncoders());

// As the tokenizer does: lower case, words and punctuation; what is not in the vocabulary is "unknown".
const W = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}", WORD = new RegExp(`[${W}]+|[^${W}\\s]+`, "gu");
const wordsOf = (text) => text.match(WORD) || [];
const idOf = (word) => (Object.hasOwn(setup.vocab, word.toLowerCase()) ? setup.vocab[word.toLowerCase()] : setup.unknown);
class FieldError extends Error { constructor(field, text) { super(text); this.field = field; } }
function tokensOf(text, field) {
  const words = wordsOf(text);
  if (!words.some((word) => /[^\p{C}\p{Z}]/u.test(word))) throw new FieldError(field, `${field} is empty: type some words`);
  if (words.length > MAX_TOKENS) throw new FieldError(field, `${field} has ${words.length} words and marks, and this page takes ${MAX_TOKENS}: shorten it`);
  return words.map(idOf);
}
const unseenIn = (texts) => [...new Set(texts.flatMap(wordsOf).filter((word) => idOf(word) === setup.unknown))].sort();

const embedded = new Map();
// Embed a text with a model: a Float32Array of unit length.
export async function encodeText(name, text, field = "caption") {
  const key = `${name}\n${text}`, ids = [...setup.prefix, ...tokensOf(text, field), ...setup.encoders[name].prompt];
  if (!embedded.has(key)) {
    const weights = (await encoders())[name];
    await new Promise((resolve) => setTimeout(resolve)); // so that the page draws in between
    embedded.set(key, encodeIds(ids, weights));
  }
  return embedded.get(key);
}
const dot = (a, b) => a.reduce((total, value, i) => total + value * b[i], 0);

// Return, for each model of the page, the cosines of images with texts, [image][text]; null for a model without encoder.
async function cosines(models, images, texts, fields) {
  const grids = [];
  for (const name of models) {
    if (!setup.encoders[name]) { grids.push(null); continue; }
    const columns = [], of = (await encoders())[name].images;
    for (const [k, text] of texts.entries()) columns.push(await encodeText(name, text, fields[k]));
    grids.push(images.map((image) => columns.map((column) => dot(of(image), column))));
  }
  return grids;
}
const notesOf = (models) => models.filter((name) => !setup.encoders[name]).map((name) => `${name}: what you type is scored by the LVLM only, whose text encoder is on this page.`);

const REQUESTS = {
  async score({ images, captions }, { models }) {
    const uploaded = images.findIndex((image) => typeof image !== "number"), fields = ["caption 1", "caption 2"];
    if (uploaded >= 0) throw new FieldError(`image ${uploaded + 1}`, ONLY_TEXT);
    captions.forEach((text, k) => tokensOf(text, fields[k]));
    return { scores: await cosines(models, images, captions, fields), notes: notesOf(models), unseen: unseenIn(captions) };
  },
  async search({ text, image }, { models, pairs }) {
    if (image !== undefined) throw new FieldError("image", ONLY_TEXT);
    const grids = await cosines(models, pairs.map((pair) => pair.image), [text], ["search"]);
    return { scores: grids.map((grid) => grid && grid.map((row) => row[0])), notes: notesOf(models), unseen: unseenIn([text]) };
  },
};
// Answer a message of the page, as `Playground.handle` does.
export async function answer(message, state) {
  try {
    if (!REQUESTS[message.do]) throw new Error("this needs Python: run vladva play");
    return { id: message.id, ...(await REQUESTS[message.do](message, state)) };
  } catch (error) {
    return { id: message.id, error: error.message, ...(error.field && { field: error.field }) };
  }
}
globalThis.vladva = { answer, encodeText };
