// float16, as blocks hold their scales and the cache its keys and values.

// The number that 16 bits stand for.
export function floatOfHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const [exponent, mantissa] = [(bits >> 10) & 31, bits & 1023];
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return exponent ? sign * (1 + mantissa / 1024) * 2 ** (exponent - 15) : sign * mantissa * 2 ** -24;
}

// The nearest number that float16 holds; of two equally near ones the even one.
export function roundedToHalf(value) {
  const size = Math.abs(value);
  if (!(size < 65520)) return Number.isNaN(value) ? NaN : Math.sign(value) * Infinity;
  const unit = 2 ** (Math.max(-14, Math.floor(Math.log2(size || 1))) - 10);
  const steps = size / unit;
  const down = Math.floor(steps);
  const up = steps - down > 0.5 || (steps - down === 0.5 && down % 2 === 1);
  return Math.sign(value) * (down + (up ? 1 : 0)) * unit;
}
