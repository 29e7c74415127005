// Making elements, and showing vectors as rows of colored cells.
import { word } from "./words.js";

export const find = (id) => document.getElementById(id);

// An element; properties that begin with "on" listen, the others are attributes (false and null are left out).
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

const SVG = "http://www.w3.org/2000/svg";
export function drawing(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Puts new content into a section; what had the focus keeps it if an element with the same data-key is there again.
export function redraw(section, ...content) {
  const key = document.activeElement?.dataset?.key;
  const inside = section.contains(document.activeElement);
  section.replaceChildren(...content.flat(Infinity).filter(Boolean));
  if (inside && key) section.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

export const shortNumber = (value) => (Number.isFinite(value) ? Number(value.toPrecision(4)).toString() : String(value));
export const hex = (byte) => byte.toString(16).padStart(2, "0");

const CELLS = 512; // of a vector that are shown

// A vector: a cell per number, colored by its size and sign; a click or Enter picks it, arrows move.
export function vectorView(values, key, chosen, onpick) {
  const shown = Array.from(values.slice(0, CELLS));
  const most = shown.reduce((top, value) => Math.max(top, Math.abs(value)), 0) || 1;
  const cells = shown.map((value, index) => element("button", {
    class: index === chosen ? "cell on" : "cell", "data-index": index, "data-key": `${key} ${index}`,
    tabindex: index === Math.max(0, chosen) ? 0 : -1, style: `--part:${Math.round((100 * Math.abs(value)) / most)}%`,
    "data-sign": value < 0 ? "-" : "+", title: `[${index}] ${shortNumber(value)}`, "aria-label": `${index}: ${shortNumber(value)}`,
  }));
  const view = element("div", { class: "vector", role: "group" }, cells);
  view.addEventListener("click", ({ target }) => target.dataset.index && onpick(Number(target.dataset.index)));
  view.addEventListener("keydown", (event) => moveFocus(event, cells));
  if (values.length <= CELLS) return view;
  return element("div", {}, view, element("p", { class: "soft" }, word("first_of", { shown: CELLS, all: values.length })));
}

// Arrow keys among elements that stand in rows; how many a row has follows from where they are.
export function moveFocus(event, cells) {
  const at = cells.indexOf(event.target);
  if (at < 0) return;
  const top = cells[0].offsetTop;
  const wrapped = cells.findIndex((cell) => cell.offsetTop > top);
  const across = wrapped < 0 ? cells.length : wrapped;
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across, Home: -at, End: cells.length - 1 - at }[event.key];
  const next = by === undefined ? null : cells[at + by];
  if (by !== undefined) event.preventDefault();
  if (!next) return;
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

// A choice out of a list as a labelled box.
export function selection(label, key, options, chosen, onchange) {
  const made = options.map(([value, text]) => element("option", { value, selected: value === chosen }, text));
  const select = element("select", { "data-key": key, onchange: ({ target }) => onchange(target.value) }, made);
  return element("label", {}, `${label} `, select);
}
