const EXAMPLES = ["介绍北京", "怎么做披萨？", "讲一个故事"]

const $ = (id) => document.getElementById(id)
const word = (name) => WORDS[language][name]

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties)
  made.append(...children)
  return made
}

// ── tokens and their probabilities ──────────────────────────────────────────────────────────────────────────────────

const percent = (logprob) => `${(100 * Math.exp(logprob)).toFixed(1)} %`
const visible = (token) => token.replaceAll("\n", "↵").replace(/^ | $/g, "␣") || "∅"

function tokenView(tokens) {
  const shown = element("div", { className: "tokens" })
  for (const token of tokens) {
    const hue = 120 * Math.exp(token.logprob)
    const button = element("button", { className: "token", type: "button" }, token.token.replaceAll("\n", "↵\n"))
    button.style.borderBottomColor = `hsl(${hue} 65% 45%)`
    button.ariaLabel = `${visible(token.token)} ${percent(token.logprob)}`
    button.onmouseenter = button.onfocus = () => showAlternatives(button, token)
    button.onmouseleave = button.onblur = () => { $("pop").hidden = true }
    shown.append(button)
  }
  return shown
}

function showAlternatives(button, token) {
  const rows = token.top.map(([piece, logprob]) =>
    element("tr", {}, element("td", {}, visible(piece)), element("td", {}, percent(logprob)),
      element("td", {}, piece === token.token ? `← ${word("chosen")}` : "")))
  if (!token.top.some(([piece]) => piece === token.token))
    rows.push(element("tr", {}, element("td", {}, visible(token.token)), element("td", {}, percent(token.logprob)),
      element("td", {}, `← ${word("chosen")}`)))
  const pop = $("pop")
  pop.replaceChildren(element("table", {}, ...rows))
  pop.hidden = false
  const box = button.getBoundingClientRect()
  pop.style.left = `${Math.max(4, Math.min(box.left, innerWidth - pop.offsetWidth - 4))}px`
  pop.style.top = box.bottom + pop.offsetHeight + 8 > innerHeight ? `${box.top - pop.offsetHeight - 4}px` : `${box.bottom + 4}px`
}

// ── asking ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const headers = () => ({ "content-type": "application/json", ...(options.key ? { authorization: `Bearer ${options.key}` } : {}) })

async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ""
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return
    const parts = (rest + value.replaceAll("\r", "")).split("\n\n")
    rest = parts.pop()
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("")
      if (data && data !== "[DONE]") yield JSON.parse(data)
    }
  }
}

function requestBody(turns, model) {
  const messages = options.system ? [{ role: "system", content: options.system }] : []
  for (const turn of turns.slice(0, -1)) {
    const answer = turn.answers.find((each) => each.model === model) ?? turn.answers[0]
    if (answer?.text) messages.push({ role: "user", content: turn.text }, { role: "assistant", content: answer.text })
  }
  messages.push({ role: "user", content: turns.at(-1).text })
  const body = { model, messages, stream: true, logprobs: true, top_logprobs: 5 }
  for (const name of ["temperature", "top_p", "top_k", "max_tokens", "seed", "repeat_penalty"])
    if (Number.isFinite(options[name])) body[name] = options[name]
  return body
}

async function answer(turns, target, signal, draw) {
  const began = performance.now()
  let first = null
  try {
    const body = JSON.stringify(requestBody(turns, target.model))
    const response = await fetch("/v1/chat/completions", { method: "POST", headers: headers(), body, signal })
    if (!response.ok) throw new Error((await response.json()).error.message)
    for await (const chunk of eventsOf(response)) {
      if (chunk.error) throw new Error(chunk.error.message)
      const choice = chunk.choices[0]
      if (!choice) continue
      target.text += choice.delta.content ?? ""
      for (const each of choice.logprobs?.content ?? []) {
        first ??= performance.now()
        target.tokens.push({ token: each.token, logprob: each.logprob, top: each.top_logprobs.map((t) => [t.token, t.logprob]) })
      }
      if (choice.finish_reason) target.reason = choice.finish_reason
      if (target.tokens.length > 1) target.speed = 1000 * (target.tokens.length - 1) / (performance.now() - first)
      draw()
    }
  } catch (error) {
    if (signal.aborted) target.reason = "stopped"
    else target.error = error instanceof TypeError ? word("lost") : error.message
  }
  target.seconds = (performance.now() - began) / 1000
}

async function run(turn) {
  const compared = $("compare").checked && models.length > 1 ? models.slice(0, 2) : models.slice(0, 1)
  const turns = current.turns.slice(0, current.turns.indexOf(turn) + 1)
  current.turns = turns
  turn.answers = compared.map((model) => ({ model, text: "", tokens: [], reason: null, speed: 0 }))
  running = new AbortController()
  save()
  show(true)
  const due = new Set() // answers that grew since the last frame
  const drawAll = () => {
    const log = $("log")
    const below = log.scrollHeight - log.scrollTop - log.clientHeight < 80
    const boxes = log.lastElementChild.children
    if (running) for (const target of due) boxes[turn.answers.indexOf(target)].replaceWith(answerView(turn, target))
    due.clear()
    if (below) log.scrollTop = log.scrollHeight
  }
  const draw = (target) => {
    if (!due.size) requestAnimationFrame(drawAll)
    due.add(target)
  }
  await Promise.all(turn.answers.map((target) => answer(turns, target, running.signal, () => draw(target))))
  running = null
  $("said").textContent = word("done")
  save()
  show()
  if (document.activeElement === document.body) $("text").focus({ preventScroll: true })
}

function ask(text) {
  current ??= { id: Date.now(), turns: [] }
  const turn = { text, answers: [] }
  current.turns.push(turn)
  run(turn)
}

// ── showing ─────────────────────────────────────────────────────────────────────────────────────────────────────────

async function copied(text) {
  try {
    if (navigator.clipboard) await navigator.clipboard.writeText(text)
    else { // on a page without TLS, browsers have the older way alone
      const area = document.body.appendChild(element("textarea", { value: text }))
      area.select()
      document.execCommand("copy")
      area.remove()
    }
    return true
  } catch { return false }
}

function answerView(turn, target) {
  const body = element("div")
  if (target.asTokens) body.append(tokenView(target.tokens))
  else body.append(markdown(target.text))
  if (!target.text && running && !target.reason && !target.error) body.append(element("span", { className: "wait" }, " "))
  if (target.error) body.append(element("p", { className: "error", role: "alert" }, target.error))
  const foot = element("div", { className: "foot" })
  if (target.speed) foot.append(`${target.speed.toFixed(1)} ${word("speed")}`)
  if (target.reason === "length") foot.append(` · ${word("cut")}`)
  const waits = running && !target.reason && !target.error
  if (target.reason === "stopped" || !(waits || target.reason || target.error)) foot.append(` · ${word("stopped")}`)
  const shown = element("div", { className: "answer" })
  if (!waits) {
    const copy = element("button", { className: "plain", type: "button" }, word("copy"))
    copy.onclick = async () => { if (await copied(target.text)) copy.textContent = word("copied") }
    const view = element("button", { className: "plain view", type: "button" }, word(target.asTokens ? "text" : "tokens"))
    view.onclick = () => {
      target.asTokens = !target.asTokens
      const other = answerView(turn, target)
      shown.replaceWith(other)
      other.querySelector(".view").focus()
    }
    if (target.tokens.length) foot.append(view)
    foot.append(copy)
    if (turn === current.turns.at(-1) && target === turn.answers.at(-1)) {
      const again = element("button", { className: "plain", type: "button", disabled: Boolean(running) }, word("again"))
      again.onclick = () => run(turn)
      foot.append(again)
    }
  }
  const parts = turn.answers.length > 1 ? [element("div", { className: "who" }, target.model)] : []
  shown.append(...parts, body, foot)
  return shown
}

function turnView(turn) {
  const edit = element("button", { className: "plain", type: "button", disabled: Boolean(running) }, word("edit"))
  const mine = element("div", { className: "mine" }, turn.text)
  edit.onclick = () => editTurn(turn, mine, edit)
  return [element("div", {}, mine, element("div", { className: "foot" }, edit)),
    element("div", { className: "answers" }, ...turn.answers.map((target) => answerView(turn, target)))]
}

function hintView() {
  const examples = EXAMPLES.map((text) => {
    const button = element("button", { type: "button" }, text)
    button.onclick = () => ask(text)
    return button
  })
  const key = locked ? [element("p", { className: "error", role: "alert" }, word("locked"))] : []
  return element("div", { className: "hint" }, ...key, word("empty"), ...examples)
}

function editTurn(turn, mine, edit) {
  const area = element("textarea", { value: turn.text, rows: Math.min(10, turn.text.split("\n").length + 1) })
  area.style.width = "100%"
  const go = element("button", { className: "main", type: "button" }, word("send"))
  go.onclick = () => { if (area.value.trim() && !running) { turn.text = area.value.trim(); run(turn) } }
  area.onkeydown = (event) => {
    if (leaves(event)) show()
    if (sends(event)) { event.preventDefault(); go.click() }
  }
  mine.replaceWith(element("div", { className: "mine" }, area, go))
  edit.remove()
  area.focus()
}

function show(end = false) {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en"
  document.documentElement.dataset.scheme = scheme
  $("side").ariaLabel = word("side")
  for (const name of ["new", "settings", "language"]) $(name).textContent = word(name)
  $("scheme").textContent = scheme === "dark" ? "☀" : "☾"
  $("scheme").ariaLabel = $("scheme").title = word("scheme")
  $("menu").ariaLabel = word("menu")
  $("text").placeholder = $("text").ariaLabel = word("ask")
  $("text").title = word("keys")
  $("send").textContent = running ? word("stop") : word("send")
  $("both").hidden = models.length < 2
  $("both").lastElementChild.textContent = word("compare")
  $("title").textContent = models.slice(0, $("compare").checked ? 2 : 1).join(" · ") || "ggmlpy"
  $("new").disabled = Boolean(running)
  showList()
  const log = $("log"), place = log.scrollTop
  log.replaceChildren(...(current ? current.turns.flatMap(turnView) : [hintView()]))
  log.scrollTop = end ? log.scrollHeight : place
}

function showList() {
  const disabled = Boolean(running)
  $("list").replaceChildren(...chats.map((chat) => {
    const open = element("button", { type: "button", disabled }, chat.turns[0]?.text.slice(0, 60) || word("untitled"))
    open.onclick = () => { current = chat; closeMenu(); show(true) }
    const remove = element("button", { className: "plain", type: "button", disabled, title: word("remove"), ariaLabel: word("remove") }, "×")
    remove.onclick = () => {
      if (current?.id === chat.id) current = null
      changeChats((all) => all.filter((each) => each.id !== chat.id))
      show()
    }
    const item = element("li", {}, open, remove)
    item.setAttribute("aria-current", String(chat.id === current?.id))
    return item
  }))
}

function showOptions() {
  const form = $("options").firstElementChild
  const fields = [["system", "textarea"], ["temperature", "number", 0, 2, 0.05], ["top_p", "number", 0, 1, 0.01], ["top_k", "number", 0, 1000, 1],
    ["repeat_penalty", "number", 0.1, 5, 0.05], ["max_tokens", "number", 1, 1000000, 1], ["seed", "number", 0, 4294967295, 1], ["key", "password"]]
  form.replaceChildren(...fields.map(([name, type, min, max, step]) => {
    const field = type === "textarea" ? element("textarea", { rows: 3 }) : element("input", { type, min, max, step })
    field.value = options[name] ?? ""
    field.autocomplete = "off"
    if (type === "number" && !["seed", "max_tokens"].includes(name)) field.placeholder = word("usual")
    field.oninput = () => {
      const value = type === "number" ? (field.value === "" ? null : Number(field.value)) : field.value
      options = { ...options, [name]: value }
      keep("ggmlpy.options", options)
    }
    return element("label", {}, word(name), field)
  }), element("button", { className: "main" }, word("close")))
  $("options").showModal()
}

// ── what a person does ──────────────────────────────────────────────────────────────────────────────────────────────

function closeMenu() {
  $("side").classList.remove("open")
  $("menu").ariaExpanded = "false"
}

function grow() {
  const text = $("text")
  text.style.height = "auto"
  text.style.height = `${text.scrollHeight + 2}px`
}

$("ask").onsubmit = (event) => {
  event.preventDefault()
  if (running) return running.abort()
  const text = $("text").value.trim()
  if (!text) return
  $("text").value = ""
  grow()
  ask(text)
}
$("text").oninput = grow
// while Chinese is being composed, Enter and Escape belong to the input method
const composes = (event) => event.isComposing || event.keyCode === 229
const sends = (event) => event.key === "Enter" && !event.shiftKey && !composes(event)
const leaves = (event) => event.key === "Escape" && !composes(event)
$("text").onkeydown = (event) => {
  if (!sends(event)) return
  event.preventDefault()
  if (!running) $("ask").requestSubmit()
}
document.onkeydown = (event) => {
  if (!leaves(event) || $("options").open) return
  running?.abort()
  closeMenu()
  $("pop").hidden = true
}
$("new").onclick = () => { current = null; closeMenu(); show(); $("text").focus() }
$("settings").onclick = showOptions
$("options").onclose = load
document.querySelector("main").addEventListener("click", (event) => { if (!$("menu").contains(event.target)) closeMenu() })
$("menu").onclick = () => { $("menu").ariaExpanded = String($("side").classList.toggle("open")) }
$("language").onclick = () => { language = language === "zh" ? "en" : "zh"; keep("ggmlpy.language", language); show() }
$("scheme").onclick = () => { scheme = scheme === "dark" ? "light" : "dark"; keep("ggmlpy.scheme", scheme); show() }
$("compare").onchange = () => show()
window.onpagehide = () => { if (running) { running.abort(); save() } } // an answer that is not finished is kept, too
window.onstorage = (event) => { if (event.key === "ggmlpy.chats") { chats = keptChats(); showList() } } // of another tab

async function load() {
  try {
    const response = await fetch("/v1/models", { headers: headers() })
    const found = await response.json()
    models = (found.data ?? []).map((model) => model.id)
    locked = response.status === 401
  } catch { models = [] }
  if (!running) show()
}

show()
load().then(() => { $("compare").checked = models.length > 1; if (locked) showOptions(); show() })
