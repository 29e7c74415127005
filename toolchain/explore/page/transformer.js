// The transformer, one token at a time, with everything that it computes on the way. The keys of a step are those of
// TABLES.operations, in their order; see llama_ref/arithmetic/transformer.py, which reads the same.
import { turned } from "./rotation.js";

// Evaluates the token at the position after those of `past`, steps of the same text, and returns a step:
// {token, position, embedding, layers: [{attention_norm, q, k, …, result}], norm, logits}.
export function evaluate(model, past, token) {
  const position = past.length;
  const step = { token, position, embedding: model.row("tok_embeddings.weight", token), layers: [] };
  let x = step.embedding;
  for (let i = 0; i < model.params.n_layer; i++) {
    const before = past.map((each) => each.layers[i]);
    const layer = oneLayer(model, `layers.${i}.`, x, before, position);
    step.layers.push(layer);
    x = layer.result;
  }
  step.norm = rmsNorm(x, model.values("norm.weight"), model.params.eps);
  step.logits = matmul(model.values("output.weight"), step.norm);
  return step;
}

function oneLayer(model, at, x, before, position) {
  const { params, rotation } = model;
  const linear = (name, y) => added(matmul(model.values(`${at}${name}.weight`), y), optional(model, `${at}${name}.bias`));
  const s = { stream: x };
  s.attention_norm = rmsNorm(x, model.values(`${at}attention_norm.weight`), params.eps);
  s.q = headNorm(linear("attention.wq", s.attention_norm), optional(model, `${at}attention.q_norm.weight`), params);
  s.k = headNorm(linear("attention.wk", s.attention_norm), optional(model, `${at}attention.k_norm.weight`), params);
  s.v = linear("attention.wv", s.attention_norm);
  s.q_turned = turned(s.q, rotation, position, params.head_dim);
  s.k_turned = turned(s.k, rotation, position, params.head_dim);
  s.cached = { k: model.remembered(s.k_turned), v: model.remembered(s.v) };
  attend(s, [...before.map((each) => each.cached), s.cached], params);
  s.wo = linear("attention.wo", s.mixed);
  s.middle = added(s.wo, x);
  s.ffn_norm = rmsNorm(s.middle, model.values(`${at}ffn_norm.weight`), params.eps);
  s.gate = linear("feed_forward.w1", s.ffn_norm);
  s.up = linear("feed_forward.w3", s.ffn_norm);
  s.gated = s.gate.map((gate, i) => (gate / (1 + Math.exp(-gate))) * s.up[i]);
  s.down = linear("feed_forward.w2", s.gated);
  s.result = added(s.down, s.middle);
  return s;
}

const optional = (model, name) => (model.tensor(name) ? model.values(name) : null);

// x / sqrt(mean(x²) + eps) · weight
export function rmsNorm(x, weight, eps) {
  const meanSquare = x.reduce((sum, value) => sum + value * value, 0) / x.length;
  const scale = Math.sqrt(meanSquare + eps);
  return x.map((value, i) => (value / scale) * weight[i]);
}

// The norm of each head, in models that have one.
function headNorm(x, weight, { head_dim, eps }) {
  if (!weight) return x;
  const out = new Float32Array(x.length);
  for (let at = 0; at < x.length; at += head_dim) out.set(rmsNorm(x.subarray(at, at + head_dim), weight, eps), at);
  return out;
}

// W x: a row of W times x for each number of the result.
export function matmul(matrix, x) {
  const out = new Float32Array(matrix.length / x.length);
  for (let row = 0; row < out.length; row++) out[row] = dot(matrix, row * x.length, x, 0, x.length);
  return out;
}

function dot(a, fromA, b, fromB, length) {
  let sum = 0;
  for (let i = 0; i < length; i++) sum += a[fromA + i] * b[fromB + i];
  return sum;
}

const added = (x, y) => (y ? x.map((value, i) => value + y[i]) : x);

// Scores, weights and the mixture of values: for each head one number per position seen.
function attend(s, cache, { n_head, n_head_kv, head_dim }) {
  s.scores = [];
  s.attention = [];
  s.mixed = new Float32Array(n_head * head_dim);
  for (let head = 0; head < n_head; head++) {
    const shared = Math.floor(head / (n_head / n_head_kv)) * head_dim; // where its keys and values are
    const at = head * head_dim;
    const scores = cache.map(({ k }) => dot(s.q_turned, at, k, shared, head_dim) / Math.sqrt(head_dim));
    const weights = softmax(scores);
    for (let i = 0; i < head_dim; i++) {
      s.mixed[at + i] = weights.reduce((sum, weight, position) => sum + weight * cache[position].v[shared + i], 0);
    }
    s.scores.push(Float32Array.from(scores));
    s.attention.push(Float32Array.from(weights));
  }
}

export function softmax(x) {
  const top = x.reduce((a, b) => Math.max(a, b), -Infinity);
  const exps = Array.from(x, (value) => Math.exp(value - top));
  const sum = exps.reduce((a, b) => a + b, 0);
  return exps.map((value) => value / sum);
}
