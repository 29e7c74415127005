// Numbers of every operation of a few steps, and where they come from; see test_origins.py.
import { readFile } from "./files.js";
import { openModel } from "./model.js";
import { originOf, valueOf } from "./origins.js";
import { TABLES } from "./tables.js";
import { evaluate } from "./transformer.js";

const TOKENS = [1, 5, 3];

// The first, the middle and the last number of each operation at a position.
function numbersAt(steps, position) {
  const step = steps[position];
  return TABLES.operations.flatMap(({ key }) => {
    const layers = key in step ? [null] : step.layers.map((_, layer) => layer);
    return layers.flatMap((layer) => {
      const values = (layer === null ? step : step.layers[layer])[key];
      const last = values.length - 1;
      const indices = Array.isArray(values) ? [[0, 0], [last, position]] : [0, Math.floor(last / 2), last];
      return indices.map((index) => ({ key, layer, index, position }));
    });
  });
}

const plain = ({ tensor, row, column, offset, bytes }) => ({ name: tensor.name, row, column, offset, bytes: bytes ?? null });

function valueAt(steps, number) {
  if (!Number.isFinite(valueOf(steps, number))) throw new Error(`no number ${JSON.stringify(number)}`);
}

// Follows a number until it is at the file, and counts the places there. Of a vector that meets a row the ends are looked at.
function followed(model, steps, number) {
  const seen = new Set();
  const rest = [number];
  let found = 0;
  while (rest.length) {
    const each = rest.pop();
    const name = JSON.stringify(each);
    if (seen.has(name)) continue;
    seen.add(name);
    valueAt(steps, each);
    const { places, numbers } = originOf(model, steps, each);
    if (!places.length && !numbers.length) throw new Error(`${name} comes from nowhere`);
    found += places.length;
    const isRow = places.some(({ column }) => column === null);
    for (const end of isRow ? [numbers[0], numbers.at(-1)] : []) valueAt(steps, end);
    rest.push(...(isRow ? [] : numbers));
  }
  return found;
}

print(args.map((path) => {
  const bytes = bytesOfFile(path);
  const model = openModel(readFile(bytes), bytes);
  const steps = [];
  for (const token of TOKENS) steps.push(evaluate(model, steps, token));
  return numbersAt(steps, TOKENS.length - 1).map((number) => ({
    number, direct: originOf(model, steps, number).places.map(plain), all: followed(model, steps, number),
  }));
}));
