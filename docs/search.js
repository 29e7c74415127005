// The search takes "-word" as "without word"; who types --lora looks for the option.
const typed = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value")
const query = document.querySelector("input.md-search__input")
if (query) Object.defineProperty(query, "value", {
  get() { return typed.get.call(this).replace(/(^|\s)-+/g, "$1") },
  set(text) { typed.set.call(this, text) },
})
