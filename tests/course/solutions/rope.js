// Turn by the position.
const { read, write } = require("./arrays_of_text.js");

const [source, output] = process.argv.slice(2);
const given = read(source);
const [nHead, base, halves] = ["n_head", "base", "halves"].map((name) => given[name][0][0]);
const out = given.x.map((row, index) => {
  const turned = row.slice();
  const size = row.length / nHead;
  for (let head = 0; head < row.length; head += size) {
    for (let i = 0; i < size / 2; i++) {
      const [a, b] = halves ? [head + i, head + i + size / 2] : [head + 2 * i, head + 2 * i + 1];
      const angle = given.position[0][index] * base ** ((-2 * i) / size);
      turned[a] = row[a] * Math.cos(angle) - row[b] * Math.sin(angle);
      turned[b] = row[a] * Math.sin(angle) + row[b] * Math.cos(angle);
    }
  }
  return turned;
});
write(output, "x", out);
