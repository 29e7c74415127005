// The page: what it shows now, what people can do, and which parts are drawn anew.
import { drawBlock, drawBytes } from "./bytes_view.js";
import { FileError } from "./bytes.js";
import { drawChoice } from "./choice_view.js";
import { element, find, redraw } from "./dom.js";
import { readFile } from "./files.js";
import { drawEmbedding, drawLayer, drawLogits } from "./layers_view.js";
import { openModel } from "./model.js";
import { drawOrigin } from "./origin_view.js";
import { Twister, candidatesOf, choose, lastTokens } from "./sampler.js";
import { TABLES } from "./tables.js";
import { pieceTokenizer, tokenizerOf } from "./tokenizers.js";
import { drawTokens } from "./tokens_view.js";
import { evaluate } from "./transformer.js";
import { currentLanguage, useLanguage, word } from "./words.js";

const DATA = JSON.parse(find("data").textContent);
const WORK = 16; // milliseconds of computing between two looks at the screen
const RESTING = 300; // milliseconds after the last key before a prompt is computed
const LARGEST_FILE = 1.25e9; // bytes: model.js takes 300 million numbers of at most four, and there is a vocabulary

const state = {
  name: "", bytes: null, model: null, tokenizer: null, beside: null, cursor: 0, marked: new Set(), value: -1,
  prompt: "介绍北京", wrapped: true, tokens: [], promptLength: 0, cut: false, steps: [], work: 0, position: 0, layer: 0, head: 0,
  pair: 0, number: null, options: { ...TABLES.sampling }, twister: null, last: null, ended: null, running: false, busy: false,
};

const STAGES = [
  ["bytes", drawBytes], ["block", drawBlock], ["tokens", drawTokens], ["embedding", drawEmbedding],
  ["layers", drawLayer], ["logits", drawLogits], ["choice", drawChoice],
];

function draw(...names) {
  if (!state.model) return;
  for (const [name, drawStage] of STAGES) {
    if (!names.length || names.includes(name)) drawStage(find(name).querySelector(".content"), state, actions);
  }
  drawOrigin(find("origin"), state, actions);
}

// ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────────

function say(text, isError = false) {
  const line = find("status");
  line.textContent = text;
  line.classList.toggle("error", isError);
}

// What is wrong with a file is told, and the page stays as it was; so it is with what nobody has foreseen.
function saidError(error) {
  if (error instanceof FileError) return say(word(`errors.${error.key}`, error.details), true);
  console.error(error);
  return say(word("errors.unforeseen", { reason: error.message }), true);
}

function open(name, bytes) {
  try {
    const model = openModel(readFile(bytes), bytes);
    const tokenizer = tokenizerOf(model.file);
    tokenizer.encode(textOfPrompt()); // throws where the vocabulary cannot spell the text
    Object.assign(state, { name, bytes, model, tokenizer, cursor: 0, marked: new Set(), steps: [], tokens: [], number: null, position: 0, layer: 0, head: 0, pair: 0 });
    find("file").textContent = name;
    setPrompt(state.prompt, state.wrapped);
    draw();
    compute();
  } catch (error) {
    saidError(error);
  }
}

// The bytes of a file that was chosen or dropped; one that is too large is not read at all.
async function contentOf(file) {
  const { name, size } = file;
  if (size > LARGEST_FILE) throw new FileError("too_long_file", { name, size, most: LARGEST_FILE });
  say(word("reading", { name }));
  try {
    return new Uint8Array(await file.arrayBuffer());
  } catch (error) {
    throw new FileError("unreadable", { name, reason: error.message });
  }
}

async function openFile(file) {
  if (!file) return;
  try {
    open(file.name, await contentOf(file));
  } catch (error) {
    saidError(error);
  }
}

async function openBeside(file) {
  if (!file) return;
  try {
    state.beside = { name: file.name, tokenizer: tokenizerOf(readFile(await contentOf(file))) };
    say(word("ready", { all: state.steps.length }));
    draw("tokens");
  } catch (error) {
    saidError(error);
  }
}

const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const fromHex = (text) => Uint8Array.from(text.match(/../g) ?? [], (byte) => parseInt(byte, 16));

function embeddedBeside() {
  if (!DATA.beside) return null;
  const { name, pieces, scores } = DATA.beside;
  return { name, tokenizer: pieceTokenizer(pieces.map((piece, i) => ({ bytes: fromHex(piece), score: scores[i] }))) };
}

// ── computing ───────────────────────────────────────────────────────────────────────────────────────────────────────

const textOfPrompt = () => (state.wrapped ? TABLES.template.replace("{instruction}", () => state.prompt) : state.prompt);

function setPrompt(prompt, wrapped) {
  Object.assign(state, { prompt, wrapped, running: false });
  const all = state.tokenizer.encode(textOfPrompt());
  const tokens = all.slice(0, state.model.context);
  state.cut = all.length > tokens.length;
  setTokens(tokens);
  Object.assign(state, { promptLength: tokens.length, last: null, ended: null, twister: new Twister(state.options.seed) });
  draw("tokens");
}

// The tokens of the text; steps of a beginning that both have stay.
function setTokens(tokens) {
  let same = 0;
  while (same < tokens.length && state.steps[same]?.token === tokens[same]) same++;
  state.steps.length = Math.min(same, state.steps.length);
  state.tokens = tokens;
  state.position = Math.min(state.position, Math.max(0, tokens.length - 1));
  state.work += 1; // what is being computed for other tokens ends
}

const resting = () => new Promise((resume) => setTimeout(resume));

// Evaluates the tokens that have no step yet; the screen stays alive meanwhile.
async function compute() {
  const work = state.work;
  const { model, tokens, steps } = state;
  let looked = performance.now();
  state.busy = true;
  while (steps.length < tokens.length) {
    if (performance.now() - looked > WORK) {
      say(word("computing", { done: steps.length + 1, all: tokens.length }));
      await resting();
      if (work !== state.work || model !== state.model) return false;
      looked = performance.now();
    }
    const step = evaluate(model, steps, tokens[steps.length]);
    if (step.logits.some((logit) => !Number.isFinite(logit))) return stopAt(word("errors.not_numbers"));
    steps.push(step);
  }
  state.busy = false;
  say(word("ready", { all: steps.length }));
  state.position = Math.max(0, steps.length - 1);
  draw("tokens", "embedding", "layers", "logits", "choice");
  return true;
}

function stopAt(text) {
  Object.assign(state, { busy: false, running: false });
  say(text, true);
  return false;
}

async function next() {
  const { steps, tokens, options, tokenizer, model } = state;
  if (state.busy || state.ended || !steps.length || steps.length < tokens.length) return;
  if (tokens.length >= model.context) state.ended = "full";
  else {
    const { candidate, draw: drawn } = choose(candidatesOf(steps.at(-1).logits, lastTokens(tokens, options), options), state.twister);
    state.last = { draw: drawn };
    if (tokenizer.ends.has(candidate.token)) state.ended = "the_end";
    else setTokens([...tokens, candidate.token]);
  }
  if (state.ended) {
    state.running = false;
    return draw("choice");
  }
  await compute();
}

async function run() {
  state.running = !state.running;
  draw("choice");
  while (state.running && !state.ended) {
    await next();
    await resting();
  }
}

// The text again with the same random numbers: as many are drawn as tokens stay.
function shorten(length) {
  const drawn = length - state.promptLength;
  setTokens(state.tokens.slice(0, length));
  Object.assign(state, { ended: null, last: null, twister: new Twister(state.options.seed) });
  state.steps.slice(state.promptLength - 1, state.promptLength - 1 + drawn).forEach((step, i) => {
    choose(candidatesOf(step.logits, lastTokens(state.tokens.slice(0, state.promptLength + i), state.options), state.options), state.twister);
  });
  compute();
}

// ── what people do ──────────────────────────────────────────────────────────────────────────────────────────────────

let waiting = 0;
let cameFrom = null; // the number that the keyboard was at when the panel opened: {section, key}

const actions = {
  textOfPrompt, openBeside, next, run,
  textSoFar: () => new TextDecoder().decode(Uint8Array.from(state.tokens.slice(state.promptLength).map((token) => state.tokenizer.piece(token)).join(""), (byte) => byte.charCodeAt(0))),
  goto(offset) {
    Object.assign(state, { cursor: offset, marked: new Set(), value: -1 });
    draw("bytes", "block");
  },
  mark(value, offsets) {
    Object.assign(state, { value, marked: new Set(offsets), cursor: offsets[0] ?? state.cursor });
    draw("bytes", "block");
  },
  // A place of the file: its bytes are marked, and shown.
  follow({ offset, size, bytes, column }) {
    const marked = bytes ?? Array.from({ length: Math.min(size, 4096) }, (_, i) => offset + i);
    Object.assign(state, { cursor: marked[0] ?? offset, marked: new Set(marked), value: column ?? -1 });
    draw("bytes", "block");
    reveal("bytes");
  },
  // Shows where a number comes from. Chosen with the keyboard, the panel gets the focus, and gives it back at the end.
  pick(number) {
    const [at, panel] = [document.activeElement, find("origin")];
    const [byKeyboard, inside] = [at?.matches(":focus-visible"), panel.contains(at)];
    if (!inside) cameFrom = byKeyboard ? { section: at.closest("section")?.id, key: at.dataset.key } : null;
    Object.assign(state, { number, position: number.position, layer: number.layer ?? state.layer });
    draw("embedding", "layers", "logits", "tokens", "choice");
    if (byKeyboard) panel.focus();
  },
  letGo() {
    state.number = null;
    draw("embedding", "layers", "logits");
    if (cameFrom?.section) find(cameFrom.section).querySelector(`[data-key="${CSS.escape(cameFrom.key)}"]`)?.focus();
    cameFrom = null;
  },
  pickToken(position) {
    state.position = position;
    actions.pick({ key: "embedding", layer: null, index: 0, position });
  },
  pickPosition(position) {
    state.position = position;
    if (state.number) state.number = null;
    draw("tokens", "embedding", "layers", "logits", "choice");
  },
  pickLayer(layer) {
    state.layer = layer;
    draw("layers");
  },
  pickHead(head) {
    state.head = head;
    draw("layers");
  },
  pickPair(pair) {
    state.pair = pair;
    draw("layers");
  },
  setPrompt(prompt, wrapped) {
    clearTimeout(waiting);
    try {
      setPrompt(prompt, wrapped);
      waiting = setTimeout(compute, RESTING);
    } catch (error) {
      saidError(error);
    }
  },
  setOption(name, value) {
    state.options[name] = value;
    if (name === "seed") state.twister = new Twister(value);
    draw("choice");
  },
  setMemory(memoryF32) {
    state.model.memoryF32 = memoryF32;
    state.steps = [];
    compute();
  },
  back: () => shorten(state.tokens.length - 1),
  restart: () => shorten(state.promptLength),
  showLine(source, line) {
    const lines = TABLES.sources[source].split("\n").map((text, i) => element("div", { class: i + 1 === line ? "on" : null }, element("span", { class: "soft" }, String(i + 1).padStart(4), " "), text));
    redraw(find("source"), element("form", { method: "dialog" }, element("b", {}, `llama_ref/arithmetic/${source}`), element("button", {}, word("close"))), element("pre", {}, lines));
    find("source").showModal();
    find("source").querySelector(".on").scrollIntoView({ block: "center" });
  },
};

function reveal(name) {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  find(name).scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start", inline: "start" });
}

// Goes to a stage: the next Tab is at its first control.
function goTo(name) {
  reveal(name);
  find(name).focus({ preventScroll: true });
}

// ── the frame ───────────────────────────────────────────────────────────────────────────────────────────────────────

function drawFrame() {
  document.documentElement.lang = currentLanguage() === "zh" ? "zh-CN" : "en";
  document.title = find("title").textContent = word("title");
  find("language").textContent = word("other");
  find("scheme").setAttribute("aria-label", word("scheme"));
  find("open").querySelector("span").textContent = word("open");
  find("hint").textContent = `${word("click")} ${word("hint")}`;
  const names = word("stages");
  redraw(find("stages"), names.map((name, i) => element("button", { "data-key": `stage ${i}`, onclick: () => goTo(STAGES[i][0]) }, `${i + 1} ${name}`)));
  STAGES.forEach(([id], i) => (find(id).querySelector("h2").textContent = names[i]));
}

function setLanguage(name) {
  useLanguage(name);
  drawFrame();
  draw();
  if (state.model) say(word("ready", { all: state.steps.length }));
}

function setScheme(name) {
  document.documentElement.dataset.scheme = name;
  draw("layers"); // the maps are painted in the scheme's color
}

const isTyping = ({ target }) => target.matches("textarea, input:not([type=range]):not([type=checkbox]), select");

function onKey(event) {
  if (event.key === "Escape" && state.number) return actions.letGo();
  if (isTyping(event) || event.ctrlKey || event.metaKey || event.altKey || !state.model) return undefined;
  if (STAGES[Number(event.key) - 1]) return goTo(STAGES[Number(event.key) - 1][0]);
  return { n: next, r: run }[event.key.toLowerCase()]?.();
}

function begin() {
  const asked = new URLSearchParams(location.search);
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.scheme = asked.get("scheme") ?? (dark ? "dark" : "light");
  useLanguage((asked.get("lang") ?? navigator.language).startsWith("zh") ? "zh" : "en");
  drawFrame();
  find("language").onclick = () => setLanguage(currentLanguage() === "zh" ? "en" : "zh");
  find("scheme").onclick = () => setScheme(document.documentElement.dataset.scheme === "dark" ? "light" : "dark");
  find("open").querySelector("input").onchange = ({ target }) => openFile(target.files[0]);
  document.addEventListener("keydown", onKey);
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    openFile(event.dataTransfer.files[0]);
  });
  state.beside = embeddedBeside();
  open(DATA.model.name, fromBase64(DATA.model.base64));
}

begin();
