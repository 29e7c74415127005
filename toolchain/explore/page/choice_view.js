// What comes next: the candidates under the sliders, and the text as it grows.
import { element, redraw, shortNumber } from "./dom.js";
import { candidatesOf, lastTokens } from "./sampler.js";
import { chip, shownPiece } from "./tokens_view.js";
import { word } from "./words.js";

// The sliders: name, lowest, highest, step.
const SLIDERS = [["temp", 0, 2, 0.05], ["top_k", 1, 100, 1], ["top_p", 0.05, 1, 0.05], ["repeat_penalty", 1, 2, 0.05], ["repeat_last_n", 0, 256, 1]];
const ROWS = 16;

export function drawChoice(section, state, actions) {
  const { steps, options, tokens, last } = state;
  const step = steps.at(-1);
  if (!step) return redraw(section);
  const candidates = candidatesOf(step.logits, lastTokens(tokens, options), options);
  redraw(section, buttons(state, actions), element("div", { class: "chips" }, tokens.slice(state.promptLength).map((token, index) => chip(state.tokenizer, token, {
    class: state.promptLength + index === state.position ? "on" : "", "data-key": `made ${index}`, onclick: () => actions.pickPosition(state.promptLength + index),
  }))), element("h3", {}, word("text")), element("p", { class: "made", "aria-live": "polite" }, actions.textSoFar()),
  state.ended ? element("p", { class: "soft" }, word(state.ended)) : null,
  element("div", { class: "sliders" }, SLIDERS.map((each) => slider(options, actions, each)), seed(options, actions), memory(state, actions)),
  last ? element("p", { class: "soft" }, last.draw === null ? word("nothing_drawn") : word("drawn", { draw: last.draw.toFixed(6) })) : null,
  table(state, actions, candidates.slice(0, ROWS)));
}

function buttons(state, { next, run, back, restart }) {
  const made = state.tokens.length - state.promptLength;
  return element("div", { class: "row" },
    element("button", { class: "main", "data-key": "next", disabled: state.busy || Boolean(state.ended), onclick: next }, word("step")),
    element("button", { "data-key": "run", disabled: Boolean(state.ended), onclick: run }, word(state.running ? "stop" : "run")),
    element("button", { "data-key": "back", disabled: !made || state.running, onclick: back }, word("back")),
    element("button", { "data-key": "restart", disabled: !made || state.running, onclick: restart }, word("restart")));
}

function slider(options, { setOption }, [name, min, max, step]) {
  const input = element("input", { type: "range", min, max, step, value: options[name], "data-key": name, oninput: ({ target }) => setOption(name, Number(target.value)) });
  return element("label", {}, element("span", {}, word(`options.${name}`)), input, element("output", { class: "mono" }, options[name]));
}

function seed(options, { setOption }) {
  const input = element("input", { type: "number", min: 0, max: 4294967295, value: options.seed, "data-key": "seed", onchange: ({ target }) => setOption("seed", Number(target.value) >>> 0) });
  return element("label", {}, element("span", {}, word("options.seed")), input);
}

function memory({ model }, { setMemory }) {
  const input = element("input", { type: "checkbox", checked: model.memoryF32, "data-key": "memory", onchange: ({ target }) => setMemory(target.checked) });
  return element("label", { class: "check" }, input, ` ${word("memory")}`);
}

function table({ tokenizer, steps }, { pick }, candidates) {
  const head = ["token", "logit", "score", "probability"].map((name) => element("th", {}, word(name)));
  const rows = candidates.map(({ token, logit, score, penalized, dropped, probability }) => element("tr", { class: dropped ? "dropped" : null },
    element("td", {}, element("button", { class: "link", "data-key": `candidate ${token}`, onclick: () => pick({ key: "logits", layer: null, index: token, position: steps.length - 1 }) }, shownPiece(tokenizer, token))),
    element("td", {}, shortNumber(logit)), element("td", { title: penalized ? word("seen") : null }, `${shortNumber(score)}${penalized ? " ↓" : ""}`),
    element("td", {}, dropped ? word(`dropped.${dropped}`) : element("span", { class: "share", style: `--part:${Math.round(100 * probability)}%` }, `${(100 * probability).toFixed(1)} %`))));
  return element("table", {}, element("thead", {}, element("tr", {}, head)), element("tbody", {}, rows));
}
