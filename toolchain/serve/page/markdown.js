// ── Markdown as nodes: text never becomes markup ────────────────────────────────────────────────────────────────────

function inline(text) {
  const nodes = []
  const pattern = /`([^`]+)`|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/g
  let last = 0
  for (const found of text.matchAll(pattern)) {
    nodes.push(text.slice(last, found.index))
    if (found[1]) nodes.push(element("code", {}, found[1]))
    else if (found[2]) nodes.push(element("strong", {}, found[2]))
    else if (found[3]) nodes.push(element("em", {}, found[3]))
    else nodes.push(element("a", { href: found[5], rel: "noopener noreferrer", target: "_blank" }, found[4]))
    last = found.index + found[0].length
  }
  return [...nodes, text.slice(last)]
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim())
const row = (tag, line) => element("tr", {}, ...cells(line).map((cell) => element(tag, {}, ...inline(cell))))

function markdown(text, depth = 0) {
  const out = document.createDocumentFragment()
  const lines = text.split("\n")
  let lists = [] // the open ones, each within the one before: {indent, node}
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i]
    const item = line.match(/^(\s*)(?:[-*+]|(\d+)[.)])\s+(.*)/)
    if (!item && line.trim()) lists = []
    if (/^\s*```/.test(line)) {
      const code = []
      while (++i < lines.length && !/^\s*```/.test(lines[i])) code.push(lines[i])
      out.append(element("pre", { tabIndex: 0 }, element("code", {}, code.join("\n"))))
    } else if (item) {
      const indent = item[1].length, tag = item[2] ? "ol" : "ul"
      while (lists.length && lists.at(-1).indent > indent) lists.pop()
      if (lists.at(-1)?.indent === indent && lists.at(-1).node.localName !== tag) lists.pop()
      if (lists.at(-1)?.indent !== indent) {
        const node = element(tag, item[2] ? { start: +item[2] } : {})
        void (lists.at(-1)?.node.lastChild ?? out).append(node)
        lists.push({ indent, node })
      }
      lists.at(-1).node.append(element("li", {}, ...inline(item[3])))
    } else if (/^#{1,4}\s/.test(line)) {
      out.append(element("h" + Math.min(4, line.match(/^#+/)[0].length + 1), {}, ...inline(line.replace(/^#+\s+/, ""))))
    } else if (/^\s*(-{3,}|\*{3,}|_{3,})\s*$/.test(line)) {
      out.append(element("hr"))
    } else if (/^>/.test(line) && depth < 4) {
      const quoted = [line]
      while (/^>/.test(lines[i + 1] ?? "")) quoted.push(lines[++i])
      out.append(element("blockquote", {}, markdown(quoted.map((each) => each.replace(/^> ?/, "")).join("\n"), depth + 1)))
    } else if (line.includes("|") && /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/.test(lines[i + 1] ?? "")) {
      const table = element("table", {}, row("th", line))
      for (i++; (lines[i + 1] ?? "").includes("|"); i++) table.append(row("td", lines[i + 1]))
      out.append(element("div", { className: "wide", tabIndex: 0 }, table))
    } else if (line.trim()) {
      const previous = i > 0 && lines[i - 1].trim() && out.lastChild?.localName === "p" ? out.lastChild : null
      if (previous) previous.append(element("br"), ...inline(line))
      else out.append(element("p", {}, ...inline(line)))
    }
  }
  return out
}
