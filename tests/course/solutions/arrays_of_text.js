// Arrays as text, as the pages of projects 7 to 10 tell.
const fs = require("fs");

exports.read = (path) => {
  const lines = fs.readFileSync(path, "utf8").split("\n").filter((line) => line.trim());
  const found = {};
  for (let at = 0; at < lines.length; ) {
    const [name, rows] = lines[at].split(" ");
    found[name] = lines.slice(at + 1, at + 1 + Number(rows)).map((line) => line.split(" ").map(Number));
    at += 1 + Number(rows);
  }
  return found;
};

exports.write = (path, name, rows) => {
  const lines = [`${name} ${rows.length} ${rows[0].length}`, ...rows.map((row) => row.join(" "))];
  fs.writeFileSync(path, lines.join("\n") + "\n");
};
