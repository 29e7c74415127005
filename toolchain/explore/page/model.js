// A model: the numbers of a file's header under one set of names, and its tensors as float32 where the arithmetic asks.
import { FileError, textOf } from "./bytes.js";
import { readRows } from "./blocks.js";
import { roundedToHalf } from "./halves.js";
import { rotationOf } from "./rotation.js";
import { TABLES } from "./tables.js";

const LONGEST_CONTEXT = 512; // positions that the page computes
const MOST_VALUES = 300e6; // of all tensors: they take four bytes each here

// What is read of GGUF's keys in the namespace of the model's architecture; others change the result or are in
// TABLES.harmless.
const READ_KEYS = [
  "context_length", "embedding_length", "block_count", "feed_forward_length", "rope.dimension_count", "rope.freq_base",
  "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
  "attention.sliding_window", "attention.layer_norm_rms_epsilon", "rope.scaling.type", "rope.scaling.factor",
  "rope.scaling.attn_factor", "rope.scaling.original_context_length", "rope.scale_linear",
  "rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_beta_fast",
  "rope.scaling.yarn_beta_slow",
];

function ofHeader(header) {
  const { n_vocab, n_embd, n_mult, n_head, n_layer, ftype } = header;
  const n_ff = n_mult > 0 ? Math.ceil(Math.floor((8 * n_embd) / 3) / n_mult) * n_mult : 0;
  return {
    architecture: "llama", n_vocab, n_embd, n_head, n_layer, n_ff, ftype, n_head_kv: n_head,
    head_dim: Math.floor(n_embd / n_head), eps: TABLES.eps, rope_theta: TABLES.rope.theta, context: TABLES.context,
    scaling: null,
  };
}

function ofMetadata(file) {
  const own = textOf(file.metadata.get("general.architecture")?.value ?? new Uint8Array());
  if (!TABLES.gguf.architectures.includes(own)) throw new FileError("architecture", { name: own || "?" });
  const count = file.metadata.get("split.count")?.value ?? 1;
  if (count > 1) throw new FileError("split", { count });
  checkKeys(file.metadata, own);
  const said = (key) => file.metadata.get(`${own}.${key}`)?.value;
  const needed = (key) => said(key) ?? missing(`${own}.${key}`);
  const [n_embd, n_head] = [needed("embedding_length"), needed("attention.head_count")];
  return {
    architecture: own, n_vocab: file.tokens.length, n_embd, n_head,
    n_layer: needed("block_count"), n_ff: needed("feed_forward_length"),
    n_head_kv: said("attention.head_count_kv") ?? n_head,
    head_dim: said("attention.key_length") || Math.floor(n_embd / n_head),
    eps: said("attention.layer_norm_rms_epsilon") ?? TABLES.eps,
    rope_theta: said("rope.freq_base") ?? TABLES.rope.theta,
    context: said("context_length") ?? TABLES.context,
    window: said("attention.sliding_window") ?? 0,
    scaling: scalingOf(file.metadata, own),
  };
}

function missing(key) {
  throw new FileError("no_key", { key });
}

// A key that says how to compute, and that nothing here reads, may not be passed over.
function checkKeys(metadata, own) {
  for (const [key, { value }] of metadata) {
    const spelled = key.startsWith(`${own}.`) ? `llama.${key.slice(own.length + 1)}` : key;
    if (!TABLES.namespaces.some((name) => spelled.startsWith(name))) continue;
    if (READ_KEYS.includes(spelled.replace(/^llama\./, ""))) continue;
    const allowed = TABLES.harmless[spelled];
    const plain = value instanceof Uint8Array ? textOf(value) : value;
    if (allowed === null || allowed?.includes(plain)) continue;
    throw new FileError("key", { key });
  }
}

function scalingOf(metadata, own) {
  const said = (key) => metadata.get(`${own}.rope.${key}`)?.value;
  const factor = said("scaling.factor") ?? said("scale_linear");
  const type = said("scaling.type");
  const rest = { magnitude: said("scaling.attn_factor"), original: said("scaling.original_context_length") };
  const stated = [factor, ...Object.values(rest)].some((value) => value !== undefined);
  return type || stated ? { type: type ? textOf(type) : "linear", factor, ...rest } : null;
}

// The model of a file, checked: {file, bytes, params, rotation, tensor(name), values(name), context}.
export function openModel(file, bytes) {
  const params = file.metadata ? ofMetadata(file) : ofHeader(file.header);
  const { n_head, n_head_kv, head_dim, n_embd } = params;
  Object.assign(params, { n_q: n_head * head_dim, n_kv: n_head_kv * head_dim });
  if (!(n_head > 0 && head_dim > 0 && head_dim % 2 === 0 && n_head % n_head_kv === 0)) {
    throw new FileError("heads", { n_embd, n_head, n_head_kv });
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const model = new Model(file, view, params);
  model.checkTensors();
  model.rotation = rotationOf(model);
  return model;
}

class Model {
  constructor(file, view, params) {
    Object.assign(this, { file, view, params, kept: new Map() });
    this.memoryF32 = false;
    this.context = LONGEST_CONTEXT;
  }

  // Keys or values of a token as they are kept for the tokens behind it: in float16, as in llama.cpp, unless asked.
  remembered(numbers) {
    return this.memoryF32 ? numbers : numbers.map(roundedToHalf);
  }

  // A tensor by its Meta name; an output layer that is the embedding is that.
  tensor(name) {
    const found = this.file.tensors.get(name);
    return found ?? (name === "output.weight" ? this.file.tensors.get("tok_embeddings.weight") : undefined);
  }

  // All values of a tensor, read once: Float32Array, rows one after another.
  values(name) {
    if (!this.kept.has(name)) {
      const tensor = this.tensor(name);
      this.kept.set(name, readRows(this.view, tensor, 0, tensor.rows));
    }
    return this.kept.get(name);
  }

  row(name, index) {
    return readRows(this.view, this.tensor(name), index, 1);
  }

  checkTensors() {
    const wanted = new Map(this.expected(false));
    const known = new Set([...wanted.keys(), ...this.expected(true).map(([name]) => name), TABLES.rope.tensor]);
    for (const [name, shape] of [...wanted, ...this.expected(true)]) {
      const tensor = this.tensor(name);
      if (!tensor && wanted.has(name)) throw new FileError("missing", { name });
      if (tensor && `${tensor.shape}` !== `${shape}`) {
        throw new FileError("other_shape", { name, expected: shape.join(" × "), found: tensor.shape.join(" × ") });
      }
    }
    let values = 0;
    for (const tensor of this.file.tensors.values()) {
      if (!known.has(tensor.name)) throw new FileError("unknown_tensor", { name: tensor.name });
      values += tensor.rows * tensor.columns;
    }
    if (values > MOST_VALUES) throw new FileError("too_large", { values, most: MOST_VALUES });
  }

  // Name and shape of the tensors that every model has, or of those that only some have.
  expected(optional) {
    const rows = TABLES.tensors.filter((row) => TABLES.optional.includes(row.meta) === optional);
    return rows.flatMap((row) => {
      const shape = row.shape.map((symbol) => this.params[symbol]);
      if (!row.meta.includes("{}")) return [[row.meta, shape]];
      return Array.from({ length: this.params.n_layer }, (_, layer) => [row.meta.replace("{}", layer), shape]);
    });
  }
}
