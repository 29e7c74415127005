// Which token comes next, as llama.cpp of 2023-03-31 chooses: penalty and temperature, top-k, top-p, and a number drawn.

const rounded = Math.fround;
const WORDS = 624;

// std::mt19937
export class Twister {
  constructor(seed) {
    this.words = new Uint32Array(WORDS);
    this.words[0] = seed;
    for (let i = 1; i < WORDS; i++) {
      const last = this.words[i - 1] ^ (this.words[i - 1] >>> 30);
      this.words[i] = Math.imul(1812433253, last) + i;
    }
    this.at = WORDS;
  }

  turn() {
    const { words } = this;
    for (let i = 0; i < WORDS; i++) {
      const y = (words[i] & 0x80000000) | (words[(i + 1) % WORDS] & 0x7fffffff);
      words[i] = words[(i + 397) % WORDS] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.at = 0;
  }

  draw() {
    if (this.at === WORDS) this.turn();
    let y = this.words[this.at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  // A number in [0, 1) from two draws, the low half first.
  canonical() {
    const low = BigInt(this.draw());
    const value = Number(low + (BigInt(this.draw()) << 32n)) / 2 ** 64;
    return value < 1 ? value : 1 - 2 ** -53;
  }
}

// The last tokens as llama.cpp's main remembers them: before the first, its window is full of token 0.
export const lastTokens = (tokens, { repeat_last_n }) => [...Array(repeat_last_n).fill(0), ...tokens];

// All tokens as candidates in falling order, each with what every stage makes of it:
// {token, logit, penalized: whether it was seen lately, score, kept: "top_k" | "top_p" | null (dropped by), probability}.
export function candidatesOf(logits, recent, options) {
  const { top_k, top_p, temp, repeat_penalty, repeat_last_n } = options;
  const seen = new Set(repeat_last_n ? recent.slice(-repeat_last_n) : []);
  const scale = temp === 0 ? 1 : rounded(1 / rounded(temp));
  const penalty = rounded(repeat_penalty);
  const all = Array.from(logits, (logit, token) => {
    const scaled = rounded(logit * scale);
    const penalized = seen.has(token);
    const score = !penalized ? scaled : logit < 0 ? rounded(scaled * penalty) : rounded(scaled / penalty);
    return { token, logit, penalized, score, dropped: null, probability: 0 };
  });
  all.sort((a, b) => b.score - a.score || a.token - b.token);
  const k = temp === 0 ? 1 : Math.max(1, Math.min(top_k, all.length));
  for (const each of all.slice(k)) each.dropped = "top_k";
  nucleus(all.slice(0, k), rounded(top_p));
  return all;
}

// Probabilities of the candidates, those beyond top_p dropped, and the others made to add up to 1 again.
function nucleus(candidates, topP) {
  const exps = candidates.map(({ score }) => rounded(Math.exp(rounded(score - candidates[0].score))));
  const sum = exps.reduce((a, b) => a + b, 0);
  candidates.forEach((each, i) => (each.probability = rounded(exps[i] / sum)));
  if (!(topP < 1)) return;
  let cumulative = 0;
  const crossing = candidates.findIndex(({ probability }) => (cumulative += probability) >= topP);
  const kept = crossing < 0 ? candidates.length : crossing + 1;
  candidates.forEach((each, i) => {
    if (i < kept) each.probability = rounded(each.probability * (1 / cumulative));
    else Object.assign(each, { dropped: "top_p", probability: 0 });
  });
}

// The one that is drawn, and the number that decided: {candidate, draw}; nothing is drawn where one is left.
export function choose(candidates, twister) {
  const kept = candidates.filter(({ dropped }) => dropped === null);
  if (kept.length < 2) return { candidate: kept[0], draw: null };
  const sum = kept.reduce((total, { probability }) => total + probability, 0);
  const draw = twister.canonical();
  let cumulative = 0;
  const found = kept.find(({ probability }) => (cumulative += probability / sum) >= draw);
  return { candidate: found ?? kept.at(-1), draw };
}
