// ── words ───────────────────────────────────────────────────────────────────────────────────────────────────────────

const WORDS = {
  en: { side: "Conversations", new: "New chat", settings: "Settings", ask: "Ask something", keys: "Enter sends, Shift+Enter: new line",
    send: "Send", stop: "Stop", again: "Again", edit: "Edit", copy: "Copy", copied: "Copied", remove: "Delete",
    tokens: "Tokens", text: "Text", compare: "both models", empty: "What is said here stays in this browser and on the machine that serves it.",
    cut: "cut at the limit", stopped: "stopped", speed: "tokens/s", untitled: "New chat", system: "System message",
    temperature: "Temperature", top_p: "top-p", top_k: "top-k", max_tokens: "Tokens at most (empty: no limit)",
    seed: "Seed (empty: another each time)", repeat_penalty: "Repeat penalty", key: "API key", close: "Close",
    usual: "as the server", chosen: "chosen", menu: "Conversations", scheme: "Light or dark", language: "中文",
    lost: "The server cannot be reached.", done: "Answer finished", locked: "This server asks for a key: Settings, API key." },
  zh: { side: "对话", new: "新对话", settings: "设置", ask: "请输入问题", keys: "回车发送，Shift+回车换行",
    send: "发送", stop: "停止", again: "重新生成", edit: "编辑", copy: "复制", copied: "已复制", remove: "删除",
    tokens: "词元", text: "文本", compare: "两个模型", empty: "对话内容只保存在本浏览器和提供服务的机器上。",
    cut: "已达长度上限", stopped: "已停止", speed: "词元/秒", untitled: "新对话", system: "系统消息",
    temperature: "温度", top_p: "top-p", top_k: "top-k", max_tokens: "最多词元数（空：不限）",
    seed: "随机种子（空：每次不同）", repeat_penalty: "重复惩罚", key: "API 密钥", close: "关闭",
    usual: "服务器默认", chosen: "选中", menu: "对话", scheme: "浅色或深色", language: "English",
    lost: "无法连接服务器。", done: "回答完毕", locked: "这个服务器需要密钥：设置，API 密钥。" },
}
