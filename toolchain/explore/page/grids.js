// The grids of IQ1, IQ2 and IQ3: an index in a block stands for eight (IQ3: four) values at once.
import { TABLES } from "./tables.js";

const negative = (signs, index) => (signs >> (index & 7)) & 1;

// Seven bits for eight signs: the eighth makes the number of minus signs even.
function evenSigns(seven) {
  let parity = 0;
  for (let bits = seven; bits; bits >>= 1) parity ^= bits & 1;
  return seven | (parity << 7);
}

// iq2_xxs, iq3_xxs: 28 bits of a word are the signs of 32 values, seven for eight.
const sevenBitSigns = (word, index) => evenSigns((word >>> (7 * ((index >> 3) & 3))) & 127);

// iq3_s: one more bit of an index is in `qh`; all eight signs are there.
function iq3sPoint(block, index) {
  const group = index >> 2;
  return { point: block.get("qs", group) | (block.bits("qh", 1, group) << 8), signs: block.get("signs", index >> 3) };
}

// iq1_s: three more bits of each of four indices are in a word of `qh`.
function elevenBits(block, group) {
  const high = (block.get("qh", group >> 2) >> (3 * (group & 3))) & 7;
  return block.get("qs", group) | (high << 8);
}

// For a value's number: which point of the grid, and the signs of its eight, or (IQ1) by what all are moved.
const POINTS = {
  iq2_xxs: (block, index) => {
    const run = index >> 5;
    const word = [4, 5, 6, 7].reduce((sum, byte) => sum + block.get("qs", 8 * run + byte) * 2 ** (8 * (byte - 4)), 0);
    return { point: block.get("qs", 8 * run + ((index >> 3) & 3)), signs: sevenBitSigns(word, index) };
  },
  iq2_xs: (block, index) => {
    const word = block.get("qs", index >> 3);
    return { point: word & 511, signs: evenSigns(word >> 9) };
  },
  iq2_s: (block, index) => {
    const group = index >> 3;
    return { point: block.get("qs", group) | (block.bits("qh", 2, group) << 8), signs: block.get("signs", group) };
  },
  iq3_xxs: (block, index) => ({
    point: block.get("qs", index >> 2),
    signs: sevenBitSigns(block.get("signs", index >> 5), index),
  }),
  "iq3_s-2024-02": iq3sPoint,
  iq3_s: iq3sPoint,
  "iq1_s-2024-02": (block, index) => {
    const group = index >> 3;
    return { point: block.get("qs", group) | ((block.bits("scales", 4, group) >> 3) << 8), moved: 0 };
  },
  "iq1_s-2024-03": (block, index) => ({ point: elevenBits(block, index >> 3), moved: 0 }),
  iq1_s: (block, index) => {
    const group = index >> 3;
    return { point: elevenBits(block, group), moved: block.get("qh", group >> 2) & 0x8000 ? -1 : 1 };
  },
  iq1_m: (block, index) => {
    const group = index >> 3;
    const high = block.bits("qh", 4, group);
    return { point: block.get("qs", group) | ((high & 7) << 8), moved: high & 8 ? -1 : 1 };
  },
};

// A value in units of its scale.
export function pointOf(block, index) {
  const { width, numbers, levels } = TABLES.grids[block.type.grid];
  const { point, signs, moved } = POINTS[block.type.layout](block, index);
  const number = numbers[levels.charCodeAt(point * width + (index % width)) - 48];
  if (moved !== undefined) return number + moved;
  return negative(signs, index) ? -number : number;
}
