// The file's bytes with the field at the cursor, the fields around it, and a block of any type decoded.
import { Block, addedTo, bytesOfValue, integerOf, rawCode, readRows, scaleOf } from "./blocks.js";
import { textOf } from "./bytes.js";
import { element, hex, moveFocus, redraw, selection, shortNumber } from "./dom.js";
import { docOf, word } from "./words.js";

const ACROSS = 16;
const LINES = 16;
const AROUND = 5; // fields shown before and behind the one at the cursor

// The field that holds a byte: the last span that begins at or before it.
export function spanAt(spans, offset) {
  let [low, high] = [0, spans.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (spans[middle].offset <= offset) low = middle;
    else high = middle - 1;
  }
  return low;
}

export function drawBytes(section, state, actions) {
  const { model, bytes, cursor } = state;
  const spans = model.file.spans;
  const at = spanAt(spans, cursor);
  redraw(section, map(state, actions), controls(state, actions), bytePane(state, actions), fieldAt(spans[at], cursor),
    element("h3", {}, word("fields")), fieldList(spans, at, actions),
    element("p", { class: "soft" }, `${model.file.title}, ${word("of_file", { size: bytes.length })}`));
}

// The whole file as a strip: header and vocabulary, then each tensor as wide as it is long.
function map({ model, bytes, cursor }, { goto }) {
  const tensors = [...model.file.tensors.values()].sort((a, b) => a.offset - b.offset);
  const part = (offset, size, label, kind) => element("button", {
    class: `part ${kind}`, style: `flex-grow:${size}`, title: `${label}, ${word("offset")} ${offset.toLocaleString("en-US")}`, "aria-label": label,
    tabindex: -1, onclick: () => goto(offset),
  });
  const head = part(0, tensors[0].offset, `${word("header")}, ${word("vocabulary")}`, "head");
  const parts = tensors.map((each, i) => part(each.offset, each.size, each.name, i % 2 ? "odd" : "even"));
  const mark = element("span", { class: "mark", style: `left:${(100 * cursor) / bytes.length}%` });
  return element("div", { class: "map" }, head, parts, mark);
}

function controls({ cursor, bytes }, { goto }) {
  const input = element("input", { value: cursor, size: 12, "data-key": "offset", "aria-label": word("offset") });
  const jump = () => {
    const wanted = Number(input.value.replace(/[, _]/g, ""));
    if (Number.isInteger(wanted) && wanted >= 0 && wanted < bytes.length) goto(wanted);
    else input.setAttribute("aria-invalid", "true");
  };
  input.addEventListener("keydown", ({ key }) => key === "Enter" && jump());
  const page = ACROSS * LINES;
  return element("div", { class: "row" },
    element("label", {}, `${word("offset")} `, input), element("button", { onclick: jump }, word("go")),
    element("button", { "data-key": "earlier", onclick: () => goto(Math.max(0, cursor - page)) }, word("earlier")),
    element("button", { "data-key": "later", onclick: () => goto(Math.min(bytes.length - 1, cursor + page)) }, word("later")));
}

function bytePane({ bytes, cursor, marked, model }, { goto }) {
  const half = (LINES / 2) * ACROSS;
  const start = Math.max(0, Math.floor((cursor - half) / ACROSS) * ACROSS + ACROSS);
  const spans = model.file.spans;
  const cells = [];
  const lines = [];
  for (let line = start; line < Math.min(bytes.length, start + ACROSS * LINES); line += ACROSS) {
    const row = [];
    for (let offset = line; offset < Math.min(bytes.length, line + ACROSS); offset++) {
      const kinds = [spanAt(spans, offset) % 2 ? "odd" : "even", offset === cursor && "on", marked.has(offset) && "marked"];
      row.push(element("button", { class: ["byte", ...kinds].filter(Boolean).join(" "), "data-offset": offset, "data-key": `byte ${offset}`, tabindex: offset === cursor ? 0 : -1 }, hex(bytes[offset])));
    }
    cells.push(...row);
    const text = Array.from(bytes.subarray(line, line + ACROSS), (byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : "·"));
    lines.push(element("div", { class: "line" }, element("span", { class: "soft" }, line.toString().padStart(9)), element("span", { class: "bytes" }, row), element("span", { class: "soft text" }, text.join(""))));
  }
  const pane = element("div", { class: "pane mono", role: "group", "aria-label": word("stages")[0] }, lines);
  pane.addEventListener("click", ({ target }) => target.dataset.offset && goto(Number(target.dataset.offset)));
  pane.addEventListener("keydown", (event) => {
    if (["Enter", " "].includes(event.key) && event.target.dataset.offset) return;
    moveFocus(event, cells);
  });
  return pane;
}

function saidSpan({ path, value, size }) {
  if (path.endsWith("padding")) return `${size} × 00`;
  if (path !== "header.magic") return saidValue(value);
  const letters = [0, 8, 16, 24].map((shift) => String.fromCharCode((value >>> shift) & 255));
  return `0x${value.toString(16)} "${letters.join("")}"`;
}

function saidValue(value) {
  if (value instanceof Uint8Array) return JSON.stringify(textOf(value.subarray(0, 200)));
  if (Array.isArray(value)) return value.join(", ");
  if (value?.type === "array") return `${value.item} × ${value.value.length.toLocaleString("en-US")}`;
  if (value && typeof value === "object") return `${value.type} ${saidValue(value.value)}`;
  return String(value);
}

function fieldAt(span, cursor) {
  const rows = [
    [word("field"), span.path],
    [word("offset"), `${cursor.toLocaleString("en-US")} = 0x${cursor.toString(16)}, ${word("byte_of", { n: cursor - span.offset + 1, size: span.size })}`],
    [word("value"), saidSpan(span)], [word("means"), docOf(span.doc)],
  ];
  return element("dl", { class: "facts" }, rows.flatMap(([name, text]) => (text ? [element("dt", {}, name), element("dd", {}, text)] : [])));
}

function fieldList(spans, at, { goto }) {
  const near = spans.slice(Math.max(0, at - AROUND), at + AROUND + 1);
  return element("div", { class: "fields mono" }, near.map((span) => element("button", {
    class: span === spans[at] ? "field on" : "field", "data-key": `field ${span.offset}`, onclick: () => goto(span.offset),
  }, element("span", { class: "soft" }, `${span.offset} `), span.path, element("span", { class: "soft" }, ` = ${saidSpan(span).slice(0, 60)}`))));
}

// ── a block ─────────────────────────────────────────────────────────────────────────────────────────────────────────

// Where the cursor is in a tensor's data: {tensor, row, column: the first of the block}; null where it is in none.
export function placeAt(model, offset) {
  const span = model.file.spans[spanAt(model.file.spans, offset)];
  if (!span.tensor || offset >= span.offset + span.size) return null;
  const tensor = model.file.tensors.get(span.tensor);
  const row = Math.floor((offset - tensor.offset) / tensor.rowBytes);
  const block = Math.floor(((offset - tensor.offset) % tensor.rowBytes) / tensor.type.bytes);
  return { tensor, row, block, at: tensor.offset + row * tensor.rowBytes + block * tensor.type.bytes };
}

// The block at the cursor; where that is in no tensor, the first block of the first matrix.
export function drawBlock(section, state, actions) {
  const first = [...state.model.file.tensors.values()].find(({ type }) => type.size > 1) ?? state.model.file.tensors.values().next().value;
  const place = placeAt(state.model, state.cursor) ?? placeAt(state.model, first.offset);
  const { tensor, row, block, at } = place;
  const { type } = tensor;
  const where = word("block_of", { block, row, size: type.size, bytes: type.bytes, offset: at });
  redraw(section, chooseTensor(state, place, actions), element("p", {}, element("b", {}, type.layout), ` · ${where}`),
    element("p", { class: "mono formula" }, docOf(type.doc)), blockFields(state, type, at, actions), values(state, place, actions));
}

function chooseTensor({ model }, { tensor, row }, { goto }) {
  const { tensors } = model.file;
  const names = [...tensors.keys()].map((name) => [name, name]);
  const to = (other, index) => goto(other.offset + index * other.rowBytes);
  const choice = selection(word("tensor"), "tensor", names, tensor.name, (name) => to(tensors.get(name), 0));
  const input = element("input", { type: "number", min: 0, max: tensor.rows - 1, value: row, "data-key": "row" });
  input.addEventListener("change", () => to(tensor, Math.max(0, Math.min(tensor.rows - 1, Number(input.value) || 0))));
  return element("div", { class: "row" }, choice, element("label", {}, `${word("row")} `, input));
}

// The fields of the block with their bytes; scales as numbers.
function blockFields({ model, bytes, marked }, type, at, { goto }) {
  const block = new Block(type, model.view, at);
  return element("div", { class: "fields mono" }, Object.entries(type.fields).map(([name, [offset, code, count]]) => {
    const size = Number(code[1]) * count;
    const data = Array.from({ length: size }, (_, i) => element("span", { class: marked.has(at + offset + i) ? "marked" : null }, hex(bytes[at + offset + i]), " "));
    const number = type.scales.includes(name) ? ` = ${shortNumber(block.get(name))}` : "";
    return element("button", { class: "field", onclick: () => goto(at + offset) }, element("b", {}, `${name}${number} `), data);
  }));
}

function values({ model, number, value }, { tensor, row, block, at }, { mark }) {
  const { type, columns } = tensor;
  const first = block * type.size;
  const count = type.size > 1 ? type.size : Math.min(32, columns - first);
  const all = readRows(model.view, tensor, row, 1).subarray(first, first + count);
  const coded = type.size > 1 ? new Block(type, model.view, at) : null;
  const cells = Array.from(all, (decoded, index) => element("button", {
    class: value === first + index ? "value on" : "value", "data-key": `value ${index}`, tabindex: index ? -1 : 0,
    onclick: () => mark(first + index, bytesOfValue(model.view, type, coded ? at : at + index * type.bytes, coded ? index : 0)
      .map((byte) => byte + (coded ? at : at + index * type.bytes))),
  }, coded ? element("b", {}, type.codes.length ? rawCode(coded, index) : integerOf(coded, index)) : null, element("small", {}, shortNumber(decoded))));
  const grid = element("div", { class: "values mono", role: "group", onkeydown: (event) => moveFocus(event, cells) }, cells);
  return [coded ? runs(coded) : element("p", { class: "soft" }, word("plain")), grid];
}

function runs(block) {
  const { type } = block;
  const count = type.size / type.run;
  const all = Array.from({ length: count }, (_, run) => {
    const added = addedTo(block, run);
    return shortNumber(scaleOf(block, run)) + (added === null ? "" : ` (${added < 0 ? "−" : "+"} ${shortNumber(Math.abs(added))})`);
  });
  const label = count > 1 ? word("scales_of_runs", { run: type.run }) : word("scale");
  return element("p", { class: "mono soft" }, `${label}: ${all.join("  ")}`);
}
