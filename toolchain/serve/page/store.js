// ── what is kept in the browser ─────────────────────────────────────────────────────────────────────────────────────

const store = (() => {
  try {
    localStorage.getItem("")
    return localStorage
  } catch { // a browser that lets nothing be kept: for as long as the page is open
    const items = new Map()
    return { getItem: (name) => items.get(name) ?? null, setItem: (name, value) => items.set(name, value) }
  }
})()
const kept = (name, usual) => { try { return JSON.parse(store.getItem(name)) ?? usual } catch { return usual } }
const keep = (name, value) => { try { store.setItem(name, JSON.stringify(value)); return true } catch { return false } }
const keptChats = () => { const found = kept("ggmlpy.chats", []); return Array.isArray(found) ? found : [] }

let chats = keptChats()
let options = kept("ggmlpy.options", {})
let language = kept("ggmlpy.language", navigator.language.startsWith("zh") ? "zh" : "en")
let scheme = kept("ggmlpy.scheme", matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")
let models = []
let locked = false // whether the server wants a key that it was not given
let current = null // the chat that is shown: {id, turns: [{text, answers: [{model, text, tokens, reason, speed}]}]}
let running = null // an AbortController, while answers come

// Change the list of chats as it is now: another tab may have changed it. When the browser's room is full, the oldest
// give way, first the probabilities of their tokens, which take most of it.
function changeChats(change) {
  chats = change(keptChats()).slice(0, 100)
  for (const chat of [...chats].reverse()) {
    if (keep("ggmlpy.chats", chats)) return
    if (chat !== current) for (const turn of chat.turns) for (const answer of turn.answers) answer.tokens = []
  }
  while (!keep("ggmlpy.chats", chats) && chats.length > 1) chats.pop()
}

function save() {
  if (current) changeChats((all) => [current, ...all.filter((chat) => chat.id !== current.id)])
}
