// Blocks of quantized values: a value is the scale of its run times a small integer, and where there is a minimum, that
// is added or subtracted. Where the bits are, and what a code stands for, TABLES.types says. Every operation is rounded
// to float32 on its own, as llama.cpp does.
import { pointOf } from "./grids.js";
import { floatOfHalf } from "./halves.js";

const f32 = Math.fround;
const READ = {
  u1: [1, (view, at) => view.getUint8(at)],
  i1: [1, (view, at) => view.getInt8(at)],
  u2: [2, (view, at) => view.getUint16(at, true)],
  i2: [2, (view, at) => view.getInt16(at, true)],
  u4: [4, (view, at) => view.getUint32(at, true)],
  i4: [4, (view, at) => view.getInt32(at, true)],
  i8: [8, (view, at) => Number(view.getBigInt64(at, true))],
  f2: [2, (view, at) => floatOfHalf(view.getUint16(at, true))],
  f4: [4, (view, at) => view.getFloat32(at, true)],
  f8: [8, (view, at) => f32(view.getFloat64(at, true))],
};

// One block of a file: its fields are read where they stand.
export class Block {
  constructor(type, view, at) {
    Object.assign(this, { type, view, at });
  }

  get(field, index = 0) {
    const [offset, code] = this.type.fields[field];
    const [size, read] = READ[code];
    return read(this.view, this.at + offset + size * index);
  }

  // `width` bits of a field that is seen as a row of such small numbers, lowest bits first.
  bits(field, width, index) {
    const bit = width * index;
    return (this.view.getUint8(this.at + this.type.fields[field][0] + (bit >> 3)) >> (bit & 7)) & ((1 << width) - 1);
  }
}

// Value i is the one numbered k of those that share a byte; these are `apart` places from each other.
export function placeOfCode([, width, apart], index) {
  if (width === 8) return { byte: index, shift: 0 };
  const perByte = 8 / width;
  const group = Math.floor(index / apart);
  return { byte: Math.floor(group / perByte) * apart + (index % apart), shift: width * (group % perByte) };
}

// The bits of value i, all parts together: what stands in the file before it is given a meaning.
export function rawCode(block, index) {
  let code = 0;
  let shift = 0;
  for (const part of block.type.codes) {
    const [field, width] = part;
    const place = placeOfCode(part, index);
    const byte = block.view.getUint8(block.at + block.type.fields[field][0] + place.byte);
    code |= ((byte >> place.shift) & ((1 << width) - 1)) << shift;
    shift += width;
  }
  return code;
}

// Value i in units of its scale.
export function integerOf(block, index) {
  const { type } = block;
  if (type.grid) return pointOf(block, index);
  if (!type.codes.length) return ternaryDigit(block, index) - 1;
  const code = rawCode(block, index);
  if (type.levels.length) return type.levels[code];
  return type.codes[0][1] === 8 ? (code << 24) >> 24 : code - type.zero;
}

// tq1_0: five digits to base 3 share a byte of `qs` (four one of `qh`). Times 3, a digit moves out at the top.
function ternaryDigit(block, index) {
  const runs = [["qs", 0, 32, 5], ["qs", 32, 16, 5], ["qh", 0, 4, 4]];
  for (const [field, first, bytes, digits] of runs) {
    if (index < bytes * digits) {
      const byte = block.get(field, first + (index % bytes));
      return (((byte * 3 ** Math.floor(index / bytes)) & 255) * 3) >> 8;
    }
    index -= bytes * digits;
  }
  throw new RangeError("no such value in a block");
}

// ── scales ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const odd = (code, part) => (2 * code + 1) * part; // the IQ types: a code stands for an odd number
const ofBlock = (block, code) => f32(block.get("d") * code);
const minOfBlock = (block, code) => f32(block.get("dmin") * code);

// Twelve bytes hold eight scales and eight minimums of six bits.
function sixBits(block, run, minimum) {
  const s = (index) => block.get("scales", index);
  if (run < 4) return s(run + (minimum ? 4 : 0)) & 63;
  const low = minimum ? s(run + 4) >> 4 : s(run + 4) & 15;
  return low | ((s(minimum ? run : run - 4) >> 6) << 4);
}

// Twelve bytes hold sixteen scales of six bits: four low bits each in eight bytes, two high bits each in four.
function q3Scale(block, run) {
  const low = run < 8 ? block.get("scales", run) & 15 : block.get("scales", run - 8) >> 4;
  const high = (block.get("scales", 8 + (run & 3)) >> (2 * (run >> 2))) & 3;
  return (low | (high << 4)) - 32;
}

// The four upper bits of four words are the block's float16; below them are four scales of three bits each.
function iq1mScale(block, run) {
  const words = [0, 1, 2, 3].map((index) => block.get("scales", index));
  const half = words.reduce((bits, word, index) => bits | ((word >> 12) << (4 * index)), 0);
  return f32(floatOfHalf(half) * odd((words[run >> 2] >> (3 * (run & 3))) & 7, 1 / 8));
}

// Four bits of exponent and three of mantissa, halved because the levels are doubled; 0x7f is 0.
function nvfp4Scale(block, run) {
  const byte = block.get("d", run);
  const [exponent, mantissa] = [(byte >> 3) & 15, byte & 7];
  if (byte === 0x7f) return 0;
  return exponent ? f32((1 + mantissa / 8) * 2 ** (exponent - 8)) : mantissa * 2 ** -10;
}

const SCALES = {
  q2_K: (block, run) => ofBlock(block, block.get("scales", run) & 15),
  q3_K: (block, run) => ofBlock(block, q3Scale(block, run)),
  q4_K: (block, run) => ofBlock(block, sixBits(block, run, false)),
  q5_K: (block, run) => ofBlock(block, sixBits(block, run, false)),
  q6_K: (block, run) => ofBlock(block, block.get("scales", run)),
  iq1_m: iq1mScale,
  "iq1_s-2024-02": (block, run) => ofBlock(block, odd(block.bits("scales", 4, run) & 7, 1 / 8)),
  "iq1_s-2024-03": (block, run) => ofBlock(block, odd(block.get("qh", run) >> 12, 1 / 8)),
  iq1_s: (block, run) => ofBlock(block, odd((block.get("qh", run) >> 12) & 7, 1 / 8)),
  iq2_s: (block, run) => ofBlock(block, odd(block.bits("scales", 4, run), 1 / 8)),
  iq2_xs: (block, run) => ofBlock(block, odd(block.bits("scales", 4, run), 1 / 8)),
  iq2_xxs: (block, run) => ofBlock(block, odd(block.get("qs", 8 * run + 7) >> 4, 1 / 8)),
  "iq3_s-2024-02": (block, run) => ofBlock(block, odd(block.bits("scales", 4, run), 1 / 4)),
  iq3_s: (block, run) => ofBlock(block, odd(block.bits("scales", 4, run), 1)),
  iq3_xxs: (block, run) => ofBlock(block, odd(block.get("signs", run) >>> 28, 1 / 4)),
  iq4_xs: (block, run) =>
    ofBlock(block, (block.bits("scales_l", 4, run) | (((block.get("scales_h") >> (2 * run)) & 3) << 4)) - 32),
  mxfp4: (block) => 2 ** (block.get("e") - 128),
  nvfp4: nvfp4Scale,
};

const MINIMUMS = {
  q2_K: (block, run) => minOfBlock(block, block.get("scales", run) >> 4),
  q4_K: (block, run) => minOfBlock(block, sixBits(block, run, true)),
  q5_K: (block, run) => minOfBlock(block, sixBits(block, run, true)),
};

export const scaleOf = (block, run) => (SCALES[block.type.layout] ?? ((each) => each.get("d")))(block, run);

// What is added to the scaled code (in k-quants a minimum is subtracted); null where there is none.
export function addedTo(block, run) {
  if (MINIMUMS[block.type.name]) return -MINIMUMS[block.type.name](block, run);
  return block.type.fields.m ? block.get("m") : null;
}

// ── values ──────────────────────────────────────────────────────────────────────────────────────────────────────────

// Puts the values of one block into a Float32Array.
export function readBlock(block, values, at) {
  const { type } = block;
  for (let run = 0; run * type.run < type.size; run++) {
    const [scale, added] = [scaleOf(block, run), addedTo(block, run)];
    for (let index = run * type.run; index < (run + 1) * type.run; index++) {
      const scaled = f32(integerOf(block, index) * scale);
      values[at + index] = added === null ? scaled : scaled + added;
    }
  }
}

const BITS = new DataView(new ArrayBuffer(4));

function plainValue(type, view, at) {
  if (type.name !== "bf16") return READ[type.plain][1](view, at);
  BITS.setUint32(0, view.getUint16(at, true) << 16);
  return BITS.getFloat32(0);
}

// Some rows of a tensor as float32, one after another.
export function readRows(view, tensor, first, count) {
  const { type, columns, rowBytes } = tensor;
  const values = new Float32Array(count * columns);
  for (let row = 0; row < count; row++) {
    const start = tensor.offset + (first + row) * rowBytes;
    for (let column = 0; column < columns; column += type.size) {
      const at = start + (column / type.size) * type.bytes;
      if (type.size === 1) values[row * columns + column] = plainValue(type, view, at);
      else readBlock(new Block(type, view, at), values, row * columns + column);
    }
  }
  return values;
}

// ── from a value back to its bytes ──────────────────────────────────────────────────────────────────────────────────

const FLIPS = [0xff, 1, 2, 4, 8, 16, 32, 64, 128];
const FILLINGS = [0x00, 0x55, 0xaa, 0xff];

// The bytes of a block on which value `index` depends: those that change it when another byte stands in their place.
// A scale of 0 hides codes and a code of 0 hides its scale, so blocks of equal bytes with scale 1 are tried as well.
export function bytesOfValue(view, type, at, index) {
  if (type.size === 1) return Array.from({ length: type.bytes }, (_, byte) => byte);
  const raw = new Uint8Array(view.buffer, view.byteOffset + at, type.bytes);
  const found = new Set(dependsOn(type, raw, index));
  for (const filling of FILLINGS) {
    for (let byte = 0; byte < type.bytes; byte++) {
      if (found.has(byte)) continue;
      const block = filled(type, filling);
      block[byte] = raw[byte];
      if (changes(type, block, byte, index)) found.add(byte);
    }
  }
  return [...found].sort((a, b) => a - b);
}

function dependsOn(type, raw, index) {
  return Array.from({ length: type.bytes }, (_, byte) => byte).filter((byte) => changes(type, raw.slice(), byte, index));
}

function filled(type, filling) {
  const bytes = new Uint8Array(type.bytes).fill(filling);
  for (const field of type.scales) {
    const [offset, code] = type.fields[field];
    const one = { f2: [0x00, 0x3c], f4: [0, 0, 0x80, 0x3f], u1: [1] }[code];
    bytes.set(one, offset);
  }
  return bytes;
}

function changes(type, bytes, byte, index) {
  const block = new Block(type, new DataView(bytes.buffer), 0);
  const run = Math.floor(index / type.run);
  const read = () => {
    const [code, scale, added] = [integerOf(block, index), scaleOf(block, run), addedTo(block, run)];
    return [code, f32(f32(code * scale) + (added ?? 0))];
  };
  const before = read();
  const kept = bytes[byte];
  const changed = FLIPS.some((flip) => {
    bytes[byte] = kept ^ flip;
    const after = read();
    return before.some((value, i) => !Object.is(value, after[i]) && !(value === 0 && after[i] === 0));
  });
  bytes[byte] = kept;
  return changed;
}
