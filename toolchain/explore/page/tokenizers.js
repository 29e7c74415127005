// From text to tokens: neighbors that merge by score (SentencePiece, as llama.cpp reads a vocabulary), or by rank inside
// words (byte pairs). Texts are strings of one character per byte, so that they can be keys of maps.
import { FileError, bytesOf, keyOf, textOf } from "./bytes.js";
import { KINDS } from "./files.js";
import { TABLES } from "./tables.js";

const [BOS, EOS, FIRST_BYTE] = [1, 2, 3];
const UNDERLINE = keyOf(bytesOf("▁"));

// What is left of the symbols when no two neighbors merge; `rankOf` says when two do: the lowest first, of equals the
// leftmost; undefined for never.
export function mergedNeighbors(symbols, rankOf) {
  const left = [...symbols];
  for (;;) {
    let best = -1;
    let lowest = Infinity;
    for (let i = 0; i + 1 < left.length; i++) {
      const rank = rankOf(left[i], left[i + 1]);
      if (rank !== undefined && (rank < lowest || best < 0)) [best, lowest] = [i, rank];
    }
    if (best < 0) return left;
    left.splice(best, 2, left[best] + left[best + 1]);
  }
}

// A string of bytes cut by the high half of each first byte, valid or not.
function characters(text) {
  const found = [];
  for (let at = 0; at < text.length; ) {
    const high = text.charCodeAt(at) >> 4;
    const length = high < 0xc ? 1 : high < 0xe ? 2 : high - 0xb;
    found.push(text.slice(at, at + length));
    at += length;
  }
  return found;
}

class ScoreMerger {
  constructor(texts, scores, byteToken) {
    this.ids = new Map(texts.map((text, id) => [text, id]));
    Object.assign(this, { scores, byteToken });
  }

  split(text) {
    const rankOf = (left, right) => {
      const id = this.ids.get(left + right);
      return id === undefined ? undefined : -this.scores[id];
    };
    return mergedNeighbors(characters(text), rankOf).flatMap((symbol) => {
      const id = this.ids.get(symbol);
      return id !== undefined ? [id] : Array.from(symbol, (byte) => this.byteToken(byte.charCodeAt(0)));
    });
  }
}

// The tokenizer of a file before GGUF: a list of pieces, a score each; a space in front of every text.
class PieceTokenizer {
  constructor(tokens) {
    this.pieces = tokens.map(({ bytes }) => keyOf(bytes));
    this.merger = new ScoreMerger(this.pieces, tokens.map(({ score }) => score), (byte) => this.byteToken(byte));
    this.ends = new Set([EOS]);
  }

  byteToken(byte) {
    if (byte + FIRST_BYTE < this.pieces.length) return byte + FIRST_BYTE;
    throw new FileError("no_byte", { byte: `0x${byte.toString(16)}` });
  }

  encode(text) {
    const data = ` ${keyOf(bytesOf(text))}`.split("\0")[0];
    return [BOS, ...this.merger.split(data)];
  }

  piece(token) {
    return this.pieces[token];
  }
}

// What GGUF's two kinds of vocabularies share.
class GgufTokenizer {
  constructor(file, defaults) {
    this.metadata = file.metadata;
    this.texts = file.tokens.map(({ spelling }) => spelling);
    this.kinds = file.tokens.map(({ kind }) => kind);
    this.ids = new Map(this.texts.map((text, id) => [text, id]));
    this.bos = this.id("bos_token_id", defaults.bos);
    this.eos = this.id("eos_token_id", defaults.eos);
    this.addsBos = Boolean(this.said("add_bos_token") ?? defaults.addsBos);
    this.addsEos = Boolean(this.said("add_eos_token") ?? false);
    this.addsSpace = Boolean(this.said("add_space_prefix") ?? defaults.addsSpace);
    const named = ["eot_token_id", "eom_token_id"].map((name) => this.id(name, this.eos));
    this.ends = new Set([this.eos, ...named, ...this.known(TABLES.ends)]);
    this.controls = new Set(this.known(TABLES.controls));
    this.kinds.forEach((kind, id) => [KINDS.unknown, KINDS.control].includes(kind) && this.controls.add(id));
    const cut = this.kinds.flatMap((kind, id) => (kind === KINDS.userDefined && !this.controls.has(id) ? [id] : []));
    this.cutOut = cut.filter((id) => this.texts[id]).sort((a, b) => this.texts[b].length - this.texts[a].length);
  }

  said(name) {
    return this.metadata.get(`tokenizer.ggml.${name}`)?.value;
  }

  id(name, usual) {
    const found = this.said(name);
    return Number.isInteger(found) && found >= 0 && found < this.texts.length ? found : usual;
  }

  known(texts) {
    return texts.map((text) => this.ids.get(keyOf(bytesOf(text)))).filter((id) => id !== undefined);
  }

  // A text from its beginning; tokens that a person defined are cut out of it first, the longest first.
  encode(text) {
    let parts = text ? [keyOf(bytesOf(text))] : [];
    for (const id of this.cutOut) parts = parts.flatMap((part) => without(part, this.texts[id], id));
    const tokens = this.addsBos ? [this.bos] : [];
    parts.forEach((part, index) => {
      const atStart = index === 0 || typeof parts[index - 1] === "number";
      if (typeof part === "number") tokens.push(part);
      else tokens.push(...this.split((this.addsSpace && atStart ? " " : "") + part));
    });
    return this.addsEos ? [...tokens, this.eos] : tokens;
  }

  // What a token shows: control tokens nothing, bytes themselves, others their text.
  piece(token) {
    const [kind, text] = [this.kinds[token], this.texts[token]];
    if (this.controls.has(token)) return "";
    if (kind === KINDS.userDefined) return text;
    if (kind === KINDS.byte) return String.fromCharCode(parseInt(text.slice(3, 5), 16));
    return kind === KINDS.normal ? this.shown(text) : "";
  }
}

function without(part, word, id) {
  if (typeof part === "number") return [part];
  return part.split(word).flatMap((stretch, index) => [...(index ? [id] : []), ...(stretch ? [stretch] : [])]);
}

class GgufScoreTokenizer extends GgufTokenizer {
  constructor(file) {
    super(file, { bos: BOS, eos: EOS, addsBos: true, addsSpace: true });
    this.merger = new ScoreMerger(this.texts, file.tokens.map(({ score }) => score), (byte) => this.byteToken(byte));
  }

  split(text) {
    return this.merger.split(text.replaceAll(" ", UNDERLINE));
  }

  byteToken(byte) {
    const hex = byte.toString(16).toUpperCase().padStart(2, "0");
    const id = this.ids.get(`<0x${hex}>`);
    if (id === undefined) throw new FileError("no_byte", { byte: `0x${hex}` });
    return id;
  }

  shown(text) {
    return text.replaceAll(UNDERLINE, " ");
  }
}

// ── byte pairs ──────────────────────────────────────────────────────────────────────────────────────────────────────

// GPT-2's alphabet of bytes: one printable character for each.
const asTheyAre = (byte) => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte < 0xad) || byte > 0xad;
const others = Array.from({ length: 256 }, (_, byte) => byte).filter((byte) => !asTheyAre(byte));
const ALPHABET = Array.from({ length: 256 }, (_, byte) =>
  String.fromCharCode(asTheyAre(byte) ? byte : 0x100 + others.indexOf(byte)));
const BYTE_OF = new Map(ALPHABET.map((letter, byte) => [letter, byte]));

class GgufPairTokenizer extends GgufTokenizer {
  constructor(file) {
    const pre = textOf(file.metadata.get("tokenizer.ggml.pre")?.value ?? bytesOf("default"));
    const settings = TABLES.pre_tokenizers.names[pre]?.split(" ");
    if (!settings) throw new FileError("pre_tokenizer", { name: pre });
    super(file, { bos: 11, eos: 11, addsBos: settings.includes("add_bos"), addsSpace: false });
    this.kind = settings[0];
    this.wholeWords = settings.includes("ignore_merges");
    this.escapes = settings.includes("escape_whitespaces");
    this.inBytes = !TABLES.pre_tokenizers.without_bytes.includes(this.kind);
    this.expressions = TABLES.pre_tokenizers.kinds[this.kind].map((source) => expressionOf(source, pre));
    this.ranks = this.readRanks();
  }

  // The place of each merge; of one that is listed twice the first.
  readRanks() {
    const ranks = new Map();
    (this.said("merges") ?? []).forEach((merge, rank) => {
      const key = keyOf(merge);
      if (!ranks.has(key)) ranks.set(key, rank);
    });
    if (!ranks.size) throw new FileError("no_merges");
    return ranks;
  }

  split(text) {
    return this.words(textOf(Uint8Array.from(text, (byte) => byte.charCodeAt(0)))).flatMap((word) => this.tokensOf(word));
  }

  words(text) {
    let pieces = [this.escapes ? text.replaceAll(" ", "▁") : text];
    for (const expression of this.expressions) pieces = pieces.flatMap((piece) => cut(piece, expression));
    return pieces;
  }

  tokensOf(word) {
    const spelled = this.inBytes ? [...bytesOf(word)].map((byte) => ALPHABET[byte]) : [...word];
    const symbols = spelled.map((letter) => keyOf(bytesOf(letter)));
    const whole = this.ids.get(symbols.join(""));
    if (this.wholeWords && whole !== undefined) return [whole];
    return mergedNeighbors(symbols, (left, right) => this.ranks.get(`${left} ${right}`)).flatMap((symbol) => {
      const id = this.ids.get(symbol);
      return id !== undefined ? [id] : this.bytesOfSymbol(symbol);
    });
  }

  // The tokens of the bytes of a symbol that is no token; bytes without one are lost, as in llama.cpp.
  bytesOfSymbol(symbol) {
    const named = (byte) => `<0x${byte.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}>`;
    return Array.from(symbol, (byte) => this.ids.get(byte) ?? this.ids.get(named(byte))).filter((id) => id !== undefined);
  }

  shown(text) {
    if (!this.inBytes) return text;
    const letters = [...textOf(Uint8Array.from(text, (byte) => byte.charCodeAt(0)))];
    const known = letters.every((letter) => BYTE_OF.has(letter));
    return known ? letters.map((letter) => String.fromCharCode(BYTE_OF.get(letter))).join("") : text;
  }
}

// llama.cpp reads expressions in its own way: any case of letter is \p{L}, ~ is not a symbol, and white space beyond
// ASCII is U+000B. Stand-ins of the same length, in the text and in the expression, make JavaScript do the same.
const TILDE = "\ue000";
const NO_SPACE = "\ue001";

function expressionOf(source, name) {
  const written = source.replace(/\\p\{L[ulmot]\}/g, "\\p{L}").replaceAll("~", TILDE);
  if (/-\ue000|\(\?[a-z]+[:)]|\+\+|\*\+|\?\+/.test(written)) throw new FileError("pre_tokenizer", { name });
  try {
    return new RegExp(written, "gu");
  } catch {
    throw new FileError("pre_tokenizer", { name });
  }
}

// The text in pieces: the matches, and what is left between them.
function cut(text, expression) {
  const read = text.replace(/[\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]/g, "\v");
  const pieces = [];
  let done = 0;
  for (const match of read.replaceAll("~", TILDE).replaceAll("\ufeff", NO_SPACE).matchAll(expression)) {
    pieces.push(text.slice(done, match.index), text.slice(match.index, match.index + match[0].length));
    done = match.index + match[0].length;
  }
  return [...pieces, text.slice(done)].filter(Boolean);
}

// The tokenizer of a list of {bytes, score}.
export const pieceTokenizer = (tokens) => new PieceTokenizer(tokens);

export function tokenizerOf(file) {
  if (!file.metadata) return pieceTokenizer(file.tokens);
  const model = textOf(file.metadata.get("tokenizer.ggml.model")?.value ?? bytesOf("llama"));
  if (model === "llama") return new GgufScoreTokenizer(file);
  if (model === "gpt2") return new GgufPairTokenizer(file);
  throw new FileError("tokenizer", { name: model });
}
