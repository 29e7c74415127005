// Rotary position embedding: pair i of a head of d numbers turns by position × θᵢ, θᵢ = base^(−2i/d).
import { FileError } from "./bytes.js";
import { TABLES } from "./tables.js";

// {frequencies, magnitude, apart}: radians per position, a factor on cosine and sine, and how far apart the two of a
// pair are: neighbors in a LLaMA, half a head in other families.
export function rotationOf(model) {
  const { head_dim, rope_theta, scaling, architecture, context } = model.params;
  const divisors = divisorsOf(model);
  const base = Array.from({ length: head_dim / 2 }, (_, i) => rope_theta ** ((-2 * i) / head_dim) / divisors[i]);
  const apart = architecture === "llama" ? 1 : head_dim / 2;
  const extra = scaling?.magnitude || 1;
  if (!scaling || scaling.type === "none") return { frequencies: base, magnitude: extra, apart };
  const factor = scaling.factor || 1;
  if (scaling.type === "linear") return { frequencies: base.map((θ) => θ / factor), magnitude: extra, apart };
  if (scaling.type !== "yarn") throw new FileError("key", { key: `rope.scaling.type ${scaling.type}` });
  const kept = keptOf(head_dim, rope_theta, scaling.original || context);
  const frequencies = base.map((θ, i) => (θ / factor) * (1 - kept[i]) + θ * kept[i]);
  return { frequencies, magnitude: extra * (0.1 * Math.log(factor) + 1), apart };
}

// LLaMA 3.1's scaling stands in GGUF as a tensor that divides the frequencies.
function divisorsOf(model) {
  const found = model.file.tensors.get(TABLES.rope.tensor);
  return found ? model.values(TABLES.rope.tensor) : new Float32Array(model.params.head_dim / 2).fill(1);
}

// YaRN: how much of each frequency stays as it is, 0 to 1.
function keptOf(head_dim, theta, context) {
  const pair = (turns) => (head_dim * Math.log(context / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
  const low = Math.max(0, Math.floor(pair(TABLES.rope.fast)));
  const high = Math.min(head_dim - 1, Math.ceil(pair(TABLES.rope.slow)));
  return Array.from({ length: head_dim / 2 }, (_, i) => 1 - Math.min(1, Math.max(0, (i - low) / Math.max(0.001, high - low))));
}

// The two places in a head that pair i turns.
export const pairOf = ({ apart }, i) => (apart === 1 ? [2 * i, 2 * i + 1] : [i, i + apart]);

// All heads of x, turned: x is [heads × head_dim].
export function turned(x, rotation, position, head_dim) {
  const out = new Float32Array(x.length);
  for (let head = 0; head < x.length; head += head_dim) {
    rotation.frequencies.forEach((frequency, i) => {
      const [first, second] = pairOf(rotation, i).map((place) => head + place);
      const angle = position * frequency;
      const cos = Math.fround(Math.cos(angle) * rotation.magnitude);
      const sin = Math.fround(Math.sin(angle) * rotation.magnitude);
      out[first] = x[first] * cos - x[second] * sin;
      out[second] = x[first] * sin + x[second] * cos;
    });
  }
  return out;
}
