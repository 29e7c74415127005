// Where a number comes from: the tensor, the row and the columns, and their bytes in the file; or the other numbers that
// it was computed from. TABLES.operations says how.
import { bytesOfValue } from "./blocks.js";
import { pairOf } from "./rotation.js";
import { TABLES } from "./tables.js";

export const operationOf = (key) => TABLES.operations.find((each) => each.key === key);

// A row of a tensor: {tensor, row, column: null, offset, size}.
export function rowPlace(model, name, row) {
  const tensor = model.tensor(name);
  return { tensor, row, column: null, offset: tensor.offset + row * tensor.rowBytes, size: tensor.rowBytes };
}

// One value of a tensor: its block, and the bytes of that block on which it depends.
export function valuePlace(model, name, row, column) {
  const tensor = model.tensor(name);
  const { type } = tensor;
  const block = Math.floor(column / type.size);
  const offset = tensor.offset + row * tensor.rowBytes + block * type.bytes;
  const bytes = bytesOfValue(model.view, type, offset, column % type.size);
  return { tensor, row, column, block, offset, size: type.bytes, bytes: bytes.map((byte) => offset + byte) };
}

// A number of a step: {operation, layer, index (of heads: [head, position])}. What it comes from:
// {places: in the file, numbers: others of the computation}.
export function originOf(model, steps, { key, layer, index, position }) {
  const operation = operationOf(key);
  const name = operation.reads.replace("{}", layer);
  const number = (from, at, where = position) => ({ key: from, layer, index: at, position: where });
  const same = (at) => operation.origin.map((from) => number(from, at));
  const { head_dim, n_head, n_head_kv } = model.params;
  const shared = (head) => Math.floor(head / (n_head / n_head_kv));
  switch (operation.place) {
    case "token":
      return { places: [valuePlace(model, name, steps[position].token, index)], numbers: [] };
    case "row": {
      const from = operation.origin[0];
      const vector = (layer === null ? steps[position] : steps[position].layers[layer])[from];
      const numbers = Array.from(vector, (_, column) => number(from, column));
      return { places: [rowPlace(model, name, index), ...biasOf(model, name, index)], numbers };
    }
    case "column":
      return { places: [valuePlace(model, name, 0, index)], numbers: streamOf(model, same(index)) };
    case "pair": {
      const head = Math.floor(index / head_dim) * head_dim;
      const pair = pairs(model).find((places) => places.includes(index - head));
      return { places: [], numbers: pair.map((place) => number(operation.origin[0], head + place)) };
    }
    case "scores": {
      const [head, other] = index;
      const numbers = [number("q_turned", head * head_dim), number("k_turned", shared(head) * head_dim, other)];
      return { places: [], numbers };
    }
    case "heads": {
      const head = Math.floor(index / head_dim);
      const value = shared(head) * head_dim + (index % head_dim);
      const numbers = steps.slice(0, position + 1).flatMap((_, other) => [
        number("attention", [head, other]),
        number("v", value, other),
      ]);
      return { places: [], numbers };
    }
    default:
      return { places: [], numbers: streamOf(model, same(index)) };
  }
}

const pairs = ({ rotation }) => rotation.frequencies.map((_, i) => pairOf(rotation, i));

// What runs into a layer is what the one before it gave, or the embedding.
function streamOf(model, numbers) {
  const { n_layer } = model.params;
  return numbers.map((each) => {
    if (each.layer === null) return { ...each, layer: n_layer - 1 };
    if (each.key !== "stream") return each;
    return each.layer ? { ...each, key: "result", layer: each.layer - 1 } : { ...each, key: "embedding", layer: null };
  });
}

function biasOf(model, name, index) {
  const bias = name.replace(/weight$/, "bias");
  return model.tensor(bias) ? [valuePlace(model, bias, 0, index)] : [];
}

// The number itself.
export function valueOf(steps, { key, layer, index, position }) {
  const found = (layer === null ? steps[position] : steps[position].layers[layer])[key];
  return Array.isArray(index) ? found[index[0]][index[1]] : found[index];
}
