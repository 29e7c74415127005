// The prompt under two vocabularies side by side, and what stands for a token elsewhere in the page.
import { element, hex, redraw } from "./dom.js";
import { word } from "./words.js";

// The text of a token as people can see it: spaces and line ends have a sign, bytes that are no character their number.
export function shownPiece(tokenizer, token) {
  const piece = tokenizer.piece(token);
  if (piece === undefined || piece === "") return `⟨${token}⟩`;
  const bytes = Uint8Array.from(piece, (each) => each.charCodeAt(0));
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    return text.replace(/\n/g, "⏎").replace(/ /g, "␣").replace(/[\u0000-\u001f\u007f]/g, (each) => `⟨${hex(each.charCodeAt(0))}⟩`);
  } catch {
    return Array.from(bytes, (byte) => `⟨${hex(byte)}⟩`).join("");
  }
}

export function chip(tokenizer, token, properties) {
  const { class: more, ...rest } = properties;
  return element("button", { class: `chip hue${token % 6} ${more ?? ""}`, title: `${word("token")} ${token}`, ...rest },
    shownPiece(tokenizer, token), element("small", {}, token));
}

export function drawTokens(section, state, actions) {
  const { tokenizer, beside, tokens, position, prompt } = state;
  const area = element("textarea", { rows: 3, "data-key": "prompt", "aria-label": word("prompt"), oninput: ({ target }) => actions.setPrompt(target.value, state.wrapped) });
  area.value = prompt;
  const wrap = element("input", { type: "checkbox", "data-key": "wrap", checked: state.wrapped, onchange: ({ target }) => actions.setPrompt(state.prompt, target.checked) });
  const own = tokens.slice(0, state.promptLength).map((token, index) => chip(tokenizer, token, {
    class: index === position ? "on" : "", "data-key": `token ${index}`, onclick: () => actions.pickToken(index),
  }));
  redraw(section, area, element("label", { class: "check" }, wrap, ` ${word("instruction")}`),
    state.cut ? element("p", { class: "error" }, word("too_long", { most: state.model.context })) : null,
    windowNote(state.model),
    element("div", { class: "two" },
      element("div", {}, element("h3", {}, word("own", { n: own.length })), element("div", { class: "chips" }, own)),
      element("div", {}, secondVocabulary(beside, actions.textOfPrompt()))),
    element("label", { class: "soft" }, `${word("choose_second")} `, element("input", { type: "file", onchange: ({ target }) => actions.openBeside(target.files[0]) })));
}

// llama.cpp does not look at a sliding window in files of these families, and neither does the page.
function windowNote({ params, context }) {
  return params.window && params.window < context ? element("p", { class: "soft" }, word("window", { window: params.window })) : null;
}

function secondVocabulary(beside, text) {
  if (!beside) return element("p", { class: "soft" }, word("no_second"));
  let tokens;
  try {
    tokens = beside.tokenizer.encode(text);
  } catch (error) {
    return element("p", { class: "error" }, word(`errors.${error.key}`, error.details));
  }
  const chips = tokens.map((token) => chip(beside.tokenizer, token, { tabindex: -1 }));
  return [element("h3", {}, word("second", { name: beside.name, n: tokens.length })), element("div", { class: "chips" }, chips)];
}
