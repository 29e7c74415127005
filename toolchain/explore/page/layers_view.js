// Embedding, layers and logits of one token: every operation with its formula, its line, its name in llama.cpp.
import { drawing, element, redraw, selection, shortNumber, vectorView } from "./dom.js";
import { operationOf } from "./origins.js";
import { pairOf } from "./rotation.js";
import { softmax } from "./transformer.js";
import { TABLES } from "./tables.js";
import { chip, shownPiece } from "./tokens_view.js";
import { word } from "./words.js";

// An operation's heading, and below it what it gave.
export function card(key, { showLine }, ...content) {
  const { formula, source, line, llama_cpp } = operationOf(key);
  const [title, means] = word(`operations.${key}`);
  return element("article", { class: "card" }, element("h3", {}, title), element("p", { class: "soft" }, means),
    element("p", { class: "mono formula" }, formula),
    element("p", { class: "soft names" }, element("button", { class: "link", "data-key": `line ${key}`, onclick: () => showLine(source, line) }, word("line", { line, source })), ` · llama.cpp: ${llama_cpp}`),
    content);
}

const isChosen = (number, key, layer, position) => number?.key === key && number.layer === layer && number.position === position;

function vectorCard(state, actions, key, values, layer, ...more) {
  const chosen = isChosen(state.number, key, layer, state.position) ? state.number.index : -1;
  const pick = (index) => actions.pick({ key, layer, index, position: state.position });
  return card(key, actions, vectorView(values, key, chosen, pick), more);
}

function whichToken(state, actions) {
  const { tokens, tokenizer, position, steps } = state;
  const options = steps.map((_, index) => [String(index), `${index}: ${shownPiece(tokenizer, tokens[index])}`]);
  return selection(word("position"), "position", options, String(position), (value) => actions.pickPosition(Number(value)));
}

export function drawEmbedding(section, state, actions) {
  const step = state.steps[state.position];
  if (!step) return redraw(section);
  redraw(section, element("div", { class: "row" }, whichToken(state, actions), chip(state.tokenizer, step.token, { tabindex: -1 })),
    vectorCard(state, actions, "embedding", step.embedding, null));
}

export function drawLayer(section, state, actions) {
  const step = state.steps[state.position];
  if (!step) return redraw(section);
  const { layer } = state;
  const s = step.layers[layer];
  const tabs = step.layers.map((_, index) => element("button", {
    class: index === layer ? "tab on" : "tab", "data-key": `layer ${index}`, "aria-pressed": index === layer ? "true" : "false", onclick: () => actions.pickLayer(index),
  }, index));
  const cards = TABLES.operations.filter(({ key }) => key in s).map(({ key }) => {
    if (key === "scores") return null; // beside its weights
    if (key === "attention") return attentionCards(state, actions, s);
    const extra = key === "q_turned" ? [turningPair(state, actions, s)] : [];
    return vectorCard(state, actions, key, s[key], layer, ...extra);
  });
  redraw(section, element("div", { class: "row" }, whichToken(state, actions), word("layer"), tabs), cards.flat());
}

// ── a turning pair ──────────────────────────────────────────────────────────────────────────────────────────────────

function turningPair(state, { pickPair }, s) {
  const { rotation, params } = state.model;
  const { pair, head, position } = state;
  const [first, second] = pairOf(rotation, pair).map((place) => head * params.head_dim + place);
  const frequency = rotation.frequencies[pair];
  const size = Math.max(Math.hypot(s.q[first], s.q[second]), 1e-9);
  const end = (x, y) => [(80 * x) / size, (-80 * y) / size];
  const arrow = (values, kind) => {
    const [x, y] = end(values[first], values[second]);
    return drawing("g", { class: kind }, drawing("line", { x1: 0, y1: 0, x2: x, y2: y }), drawing("circle", { cx: x, cy: y, r: 5 }));
  };
  const circle = drawing("svg", { viewBox: "-100 -100 200 200", class: "turn", role: "img", "aria-label": word("operations.q_turned")[1] },
    drawing("circle", { r: 80, class: "orbit" }), arrow(s.q, "before"), arrow(s.q_turned, "after"));
  const slider = element("input", { type: "range", min: 0, max: params.head_dim / 2 - 1, value: pair, "data-key": "pair", "aria-label": word("pair"), oninput: ({ target }) => pickPair(Number(target.value)) });
  const numbers = (label, values) => `${label}: (${shortNumber(values[first])}, ${shortNumber(values[second])})`;
  return element("div", { class: "pair" }, circle, element("div", {},
    element("label", {}, `${word("pair")} ${pair} `, slider),
    element("p", { class: "mono" }, word("angle", { position, frequency: shortNumber(frequency), angle: shortNumber(position * frequency) })),
    element("p", { class: "mono before" }, numbers(word("before"), s.q)), element("p", { class: "mono after" }, numbers(word("after"), s.q_turned))));
}

// ── attention ───────────────────────────────────────────────────────────────────────────────────────────────────────

function attentionCards(state, actions, s) {
  const { number, layer, position, head } = state;
  const heads = s.attention.map((_, index) => element("button", { class: index === head ? "tab on" : "tab", "data-key": `head ${index}`, "aria-pressed": index === head ? "true" : "false", onclick: () => actions.pickHead(index) }, index));
  const one = (key) => {
    const chosen = isChosen(number, key, layer, position) && number.index[0] === head ? number.index[1] : -1;
    return vectorView(s[key][head], key, chosen, (other) => actions.pick({ key, layer, index: [head, other], position }));
  };
  return [card("scores", actions, element("div", { class: "row" }, word("head"), heads), one("scores")),
    card("attention", actions, one("attention"), element("div", { class: "maps" }, s.attention.map((_, index) => attentionMap(state, actions, index))))];
}

const LARGEST_MAP = 256; // pixels of a map's side

// A head's map as a picture: click a cell, or focus it and use the arrows.
function attentionMap(state, { pick, pickHead }, head) {
  const { steps, layer, position, number } = state;
  const n = steps.length;
  const cell = Math.max(2, Math.floor(LARGEST_MAP / n));
  const canvas = element("canvas", { width: n * cell, height: n * cell, tabindex: 0, role: "img", "data-key": `map ${head}`, "aria-label": word("map", { head }), title: word("map", { head }) });
  const ink = getComputedStyle(document.documentElement).getPropertyValue("--accent");
  const context = canvas.getContext("2d");
  context.fillStyle = ink;
  steps.forEach((step, row) => step.layers[layer].attention[head].forEach((weight, column) => {
    context.globalAlpha = Math.sqrt(weight); // small weights show, too
    context.fillRect(column * cell, row * cell, cell, cell);
  }));
  context.globalAlpha = 1;
  context.strokeStyle = ink;
  context.strokeRect(0.5, position * cell + 0.5, n * cell - 1, cell - 1);
  const choose = (row, column) => {
    if (row < 0 || column < 0 || row >= n || column > row) return;
    pickHead(head);
    pick({ key: "attention", layer, index: [head, column], position: row });
  };
  canvas.addEventListener("click", ({ offsetX, offsetY }) => {
    const scale = (n * cell) / canvas.clientWidth;
    choose(Math.floor((offsetY * scale) / cell), Math.floor((offsetX * scale) / cell));
  });
  canvas.addEventListener("keydown", (event) => {
    const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [];
    if (down === undefined) return;
    event.preventDefault();
    const column = number?.key === "attention" && number.index[0] === head ? number.index[1] : 0;
    choose(position + down, Math.min(column + right, position + down));
  });
  return element("figure", {}, canvas, element("figcaption", { class: "soft" }, `${word("head")} ${head}`));
}

// ── logits ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const BARS = 12;

export function drawLogits(section, state, actions) {
  const step = state.steps[state.position];
  if (!step) return redraw(section);
  const probabilities = softmax(step.logits);
  const best = Array.from(step.logits.keys()).sort((a, b) => step.logits[b] - step.logits[a]).slice(0, BARS);
  const rows = best.map((token) => element("button", {
    class: "bar", "data-key": `logit ${token}`, style: `--part:${Math.round(100 * probabilities[token])}%`,
    onclick: () => actions.pick({ key: "logits", layer: null, index: token, position: state.position }),
  }, element("span", {}, shownPiece(state.tokenizer, token)), element("span", { class: "soft" }, shortNumber(step.logits[token])), element("span", {}, `${(100 * probabilities[token]).toFixed(1)} %`)));
  redraw(section, element("div", { class: "row" }, whichToken(state, actions)), vectorCard(state, actions, "norm", step.norm, null),
    vectorCard(state, actions, "logits", step.logits, null), element("h3", {}, word("most_likely")), element("div", { class: "bars" }, rows));
}
