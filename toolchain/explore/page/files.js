// The containers: ggml, ggmf, ggjt and GGUF, each read by its declared records into one description of a file.
import { Cursor, FileError, keyOf, readRecord, sizeOf, textOf } from "./bytes.js";
import { TABLES } from "./tables.js";

const LONGEST_NAME = 256;
const DEEPEST_ARRAY = 4;

// A file: {container, version, title, header, spans, tensors: Map of Meta name → tensor, metadata, tokens}.
// A tensor: {name, type, shape: rows first, offset, size}. A token: {bytes, score, kind, offset, size, spelling}.
export function readFile(bytes) {
  const cursor = new Cursor(bytes);
  const magic = cursor.number("I", "magic");
  cursor.offset = 0;
  if (magic === TABLES.gguf.magic) return readGguf(cursor);
  const container = TABLES.containers.find((each) => each.magic === magic);
  if (!container) throw new FileError("magic", { magic: `0x${magic.toString(16).padStart(8, "0")}` });
  return readGgml(cursor, container);
}

const nothing = () => new FileError("no_tensors");

function readGgml(cursor, container) {
  const spans = [];
  const header = readRecord(cursor, container.header, "header", spans);
  const version = header.version ?? 0;
  if (!container.versions.includes(version)) throw new FileError("version", { container: container.name, version });
  const file = { container: container.name, version, title: container.titles[version], header, spans, metadata: null };
  file.tokens = readVocabulary(cursor, container, header.n_vocab, spans);
  file.tensors = new Map();
  const types = typesOf(container.name, version, header.ftype);
  while (cursor.left) {
    const tensor = readTensor(cursor, container, types, spans);
    if (file.tensors.has(tensor.name)) throw new FileError("twice", { name: tensor.name });
    file.tensors.set(tensor.name, tensor);
  }
  if (!file.tensors.size) throw nothing();
  return file;
}

function typesOf(container, version, ftype) {
  return TABLES.types_of[`${container} ${version} ${ftype}`] ?? TABLES.types_of[`${container} ${version}`];
}

function readVocabulary(cursor, container, count, spans) {
  cursor.count(count, 4, "n_vocab");
  return Array.from({ length: count }, (_, index) => {
    const offset = cursor.offset;
    const entry = readRecord(cursor, container.token, `vocabulary[${index}]`, spans);
    return { bytes: entry.text, score: entry.score ?? 0, kind: null, offset, size: cursor.offset - offset };
  });
}

function readTensor(cursor, container, types, spans) {
  const start = cursor.offset;
  const head = new Cursor(cursor.bytes, start);
  const [n_dims, name_length] = [head.number("i", "n_dims"), head.number("i", "name_length")];
  if (n_dims < 1 || n_dims > 2 || name_length < 1 || name_length > LONGEST_NAME) {
    throw new FileError("no_tensor", { offset: start });
  }
  const name = textOf(cursor.bytes.subarray(start + 12 + 4 * n_dims, start + 12 + 4 * n_dims + name_length));
  const values = readRecord(cursor, container.tensor, `tensor[${name}]`, spans);
  const tensor = describe(name, values.dims, types[values.type], values.type);
  tensor.offset = cursor.offset;
  cursor.take(tensor.size, name);
  spans.push(dataSpan(tensor, name));
  return tensor;
}

// A tensor's type, shape and size, checked against each other.
function describe(name, dims, layout, number) {
  if (!layout) throw new FileError("type", { name, number: TABLES.removed[number]?.[0] ?? number });
  const type = TABLES.types[layout];
  const shape = [...dims].reverse();
  const columns = shape[shape.length - 1];
  if (Math.min(...shape) < 1 || columns % type.size) throw new FileError("shape", { name, shape: shape.join(" × ") });
  const rows = shape.slice(0, -1).reduce((product, n) => product * n, 1);
  return { name, type, shape, rows, columns, rowBytes: (columns / type.size) * type.bytes, size: rows * (columns / type.size) * type.bytes };
}

const dataSpan = (tensor, name) => ({
  offset: tensor.offset,
  size: tensor.size,
  path: `tensor[${name}].data`,
  value: `${tensor.type.layout} ${tensor.shape.join(" × ")}`,
  doc: tensor.type.doc,
  tensor: tensor.name,
});

// ── GGUF ────────────────────────────────────────────────────────────────────────────────────────────────────────────

function readGguf(cursor) {
  const version = cursor.view.byteLength >= 8 ? cursor.view.getUint32(4, true) : 0;
  const records = TABLES.gguf.records[version];
  if (!records && version && (version & 0xffff) === 0) throw new FileError("big_endian");
  if (!records) throw new FileError("version", { container: "gguf", version });
  const spans = [];
  const header = readRecord(cursor, records.header, "header", spans);
  const metadata = readMetadata(cursor, records, header.n_kv, spans);
  const infos = readInfos(cursor, records, header.n_tensors, spans);
  const file = { container: "gguf", version, title: `gguf v${version}`, header, spans, metadata };
  file.tensors = bindTensors(cursor, version, infos, metadata, spans);
  file.tokens = ggufTokens(metadata);
  return file;
}

function readMetadata(cursor, records, count, spans) {
  const metadata = new Map();
  const readTyped = (cursor, number) => readValue(cursor, number, records.size, 0);
  cursor.count(count, 2 * sizeOf(records.size) + 1, "n_kv");
  for (let i = 0; i < count; i++) {
    const from = spans.length;
    const pair = readRecord(cursor, records.pair, "", spans, readTyped);
    const key = textOf(pair.key);
    for (const span of spans.slice(from)) span.path = `metadata[${key}]${span.path}`;
    if (metadata.has(key)) throw new FileError("twice", { name: key });
    metadata.set(key, pair.value);
  }
  return metadata;
}

// A value {type, value}; of an array of strings also where each of them is: [offset, bytes].
function readValue(cursor, number, size, depth) {
  const [type, code] = TABLES.gguf.value_types[number] ?? [];
  if (!type) throw new FileError("value_type", { number, offset: cursor.offset });
  if (type === "string") return { type, value: cursor.take(cursor.number(size, "string"), "string") };
  if (type !== "array") return { type, value: cursor.number(code, "value") };
  const item = cursor.number("I", "item type");
  const length = cursor.number(size, "array length");
  const [name, itemCode] = TABLES.gguf.value_types[item] ?? [];
  if (!name) throw new FileError("value_type", { number: item, offset: cursor.offset });
  if (depth >= DEEPEST_ARRAY) throw new FileError("deep", { offset: cursor.offset });
  cursor.count(length, itemCode ? sizeOf(itemCode) : sizeOf(size), "array length");
  const offsets = [];
  const value = Array.from({ length }, () => {
    offsets.push(cursor.offset);
    return readValue(cursor, item, size, depth + 1).value;
  });
  return { type, item: name, value, offsets };
}

function readInfos(cursor, records, count, spans) {
  cursor.count(count, 2 * sizeOf(records.size) + 16, "n_tensors");
  return Array.from({ length: count }, () => {
    const from = spans.length;
    const info = readRecord(cursor, records.tensor, "", spans);
    info.text = textOf(info.name);
    for (const span of spans.slice(from)) span.path = `tensor[${info.text}]${span.path}`;
    return info;
  });
}

function bindTensors(cursor, version, infos, metadata, spans) {
  const alignment = metadata.get("general.alignment")?.value ?? TABLES.gguf.alignment;
  if (!(alignment > 0) || alignment & (alignment - 1)) throw new FileError("alignment", { alignment });
  const start = cursor.offset + ((alignment - (cursor.offset % alignment)) % alignment);
  if (!infos.length) throw nothing();
  if (start > cursor.offset) {
    const size = start - cursor.offset;
    spans.push({ offset: cursor.offset, size, path: "padding", value: `${size} zeros`, doc: "up to the alignment" });
  }
  const tensors = new Map();
  for (const info of infos) {
    const tensor = describe(metaName(info.text), info.dims, typesOf("gguf", version)[info.type], info.type);
    tensor.offset = start + info.offset;
    new Cursor(cursor.bytes, Math.min(tensor.offset, cursor.bytes.length)).take(tensor.size, info.text);
    if (tensors.has(tensor.name)) throw new FileError("twice", { name: info.text });
    tensors.set(tensor.name, tensor);
    spans.push(dataSpan(tensor, info.text));
  }
  return tensors;
}

// Meta's spelling of GGUF's name of a tensor; a name that no row of the table has stays as it is.
function metaName(name) {
  const [, layer, rest] = /^blk\.(\d+)(\..*)$/.exec(name) ?? [];
  const pattern = layer === undefined ? name : `blk.{}${rest}`;
  const row = TABLES.tensors.find((each) => each.gguf === pattern);
  return row ? row.meta.replace("{}", layer) : name;
}

// The types of tokens in GGUF.
export const KINDS = { normal: 1, unknown: 2, control: 3, userDefined: 4, byte: 6 };

function ggufTokens(metadata) {
  const texts = metadata.get("tokenizer.ggml.tokens");
  if (texts?.item !== "string") throw new FileError("no_vocabulary");
  const scores = metadata.get("tokenizer.ggml.scores")?.value;
  const kinds = metadata.get("tokenizer.ggml.token_type")?.value;
  return texts.value.map((bytes, index) => {
    const kind = kinds?.[index] ?? KINDS.normal;
    const [offset, size] = [texts.offsets[index], bytes.length];
    return { bytes, score: scores?.[index] ?? 0, kind, offset, size, spelling: keyOf(bytes) };
  });
}
