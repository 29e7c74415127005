// Sample with the same seed as 2023.
const fs = require("fs");
const { read } = require("./arrays_of_text.js");

const [source, output] = process.argv.slice(2);
const given = read(source);
const names = ["seed", "temp", "top_k", "top_p", "repeat_penalty", "repeat_last_n"];
const [seed, temp, topK, topP, penalty, last] = names.map((name) => given[name][0][0]);

const words = [seed >>> 0];
for (let i = 1; i < 624; i++) {
  const w = words[i - 1];
  words.push((Math.imul(1812433253, w ^ (w >>> 30)) + i) >>> 0);
}
let at = 624;
function next() {
  if (at === 624) {
    for (let i = 0; i < 624; i++) {
      const y = (words[i] & 0x80000000) | (words[(i + 1) % 624] & 0x7fffffff);
      words[i] = (words[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0)) >>> 0;
    }
    at = 0;
  }
  let y = words[at++];
  y ^= y >>> 11;
  y ^= (y << 7) & 0x9d2c5680;
  y ^= (y << 15) & 0xefc60000;
  return (y ^ (y >>> 18)) >>> 0;
}

const recent = new Array(last).fill(0);
const tokens = [];
for (const logits of given.logits) {
  const scores = logits.map((logit) => logit / temp);
  for (const token of new Set(recent.slice(-last))) scores[token] *= scores[token] < 0 ? penalty : 1 / penalty;
  const order = [...scores.keys()].sort((a, b) => scores[b] - scores[a]).slice(0, topK);
  const chances = order.map((token) => Math.exp(scores[token] - scores[order[0]]));
  const total = chances.reduce((a, b) => a + b);
  let reached = 0;
  let count = 0;
  for (const chance of chances) {
    reached += chance / total;
    count++;
    if (topP < 1 && reached >= topP) break;
  }
  let chosen = order[0];
  if (count > 1) {
    const first = next();
    const draw = (first + next() * 2 ** 32) / 2 ** 64;
    let sum = 0;
    for (let i = 0; i < count; i++) {
      sum += chances[i] / total / reached;
      chosen = order[i];
      if (sum >= draw) break;
    }
  }
  recent.push(chosen);
  tokens.push(chosen);
}
fs.writeFileSync(output, tokens.map((token) => `${token}\n`).join(""));
