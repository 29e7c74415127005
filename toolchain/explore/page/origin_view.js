// Where the chosen number comes from: bytes of the file, or other numbers, each of which can be chosen in turn.
import { element, hex, redraw, shortNumber } from "./dom.js";
import { operationOf, originOf, valueOf } from "./origins.js";
import { shownPiece } from "./tokens_view.js";
import { word } from "./words.js";

const MOST_NUMBERS = 12;

const indexOf = ({ index }) => (Array.isArray(index) ? index.join(", ") : index);
const nameOf = (number) => {
  const layer = number.layer === null ? "" : `${word("layer")} ${number.layer} · `;
  return `${layer}${word(`operations.${number.key}`)[0]} [${indexOf(number)}] · ${word("position")} ${number.position}`;
};

export function drawOrigin(panel, state, actions) {
  const { number, model, steps } = state;
  panel.hidden = !number || !steps[number.position];
  if (panel.hidden) return redraw(panel);
  const { formula, source, line, llama_cpp } = operationOf(number.key);
  const { places, numbers } = originOf(model, steps, number);
  redraw(panel, element("button", { class: "close", "data-key": "close", onclick: actions.letGo }, word("close")),
    element("h2", {}, nameOf(number)), element("p", { class: "big mono" }, String(Number(valueOf(steps, number).toPrecision(9)))),
    element("p", {}, element("span", { class: "mono formula" }, formula), " · ", element("button", { class: "link", onclick: () => actions.showLine(source, line) }, word("line", { line, source })), ` · llama.cpp: ${llama_cpp}`),
    attended(state), places.length ? fromFile(state, places, actions) : null, numbers.length ? fromNumbers(steps, numbers, actions) : null);
}

function attended({ number, tokens, tokenizer, steps }) {
  if (number.key !== "attention") return null;
  const [token, other] = [tokens[number.position], tokens[number.index[1]]].map((each) => shownPiece(tokenizer, each));
  return element("p", {}, word("sees", { token, other, value: shortNumber(valueOf(steps, number)) }));
}

function fromFile(state, places, { follow }) {
  const { bytes, number, model, name, steps } = state;
  const rows = places.map((place) => element("button", { class: "link", "data-key": `place ${place.offset}`, onclick: () => follow(place) }, place.column === null
    ? word("at", { row: place.row, name: place.tensor.name, offset: place.offset, size: place.size })
    : word("value_at", { row: place.row, column: place.column, name: place.tensor.name, offset: place.offset, bytes: place.bytes.map((offset) => `${offset}: ${hex(bytes[offset])}`).slice(0, 6).join(", ") })));
  const token = { logits: number.index, embedding: steps[number.position].token }[number.key];
  if (token !== undefined) rows.push(entryOf(model.file.tokens[token], token, follow));
  const first = places[0]?.bytes?.[0] ?? places[0]?.offset;
  return element("div", {}, element("h3", {}, word("from_file")), element("ul", {}, rows.map((row) => element("li", {}, row))),
    element("p", { class: "soft" }, word("explain"), " ", element("code", {}, `python cli.py explain ${name} ${first}`)));
}

function entryOf({ offset, size }, token, follow) {
  return element("button", { class: "link", onclick: () => follow({ offset, size }) }, word("vocabulary_at", { token, offset, size }));
}

function fromNumbers(steps, numbers, { pick }) {
  const shown = numbers.slice(0, MOST_NUMBERS).map((number) => element("li", {}, element("button", { class: "link", onclick: () => pick(number) }, `${nameOf(number)} = ${shortNumber(valueOf(steps, number))}`)));
  const more = numbers.length > MOST_NUMBERS ? element("li", { class: "soft" }, word("more", { n: numbers.length - MOST_NUMBERS })) : null;
  return element("div", {}, element("h3", {}, word("from_numbers")), element("ul", {}, shown, more));
}
