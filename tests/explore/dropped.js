// Drops files on the page as a person would, one after the other, and notes what the page says then.
const status = document.getElementById("status");
const pause = (time) => new Promise((resume) => setTimeout(resume, time));
const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

// The page has come to rest when it says the same for a while, and does not say that it reads or computes.
async function rest() {
  let [said, calm] = ["", 0];
  for (let i = 0; i < 4000 && calm < 20; i++) {
    await pause(20);
    calm = status.textContent === said && !/reading|computing/.test(said) ? calm + 1 : 0;
    said = status.textContent;
  }
}

function drop(file) {
  const transfer = new DataTransfer();
  if (file instanceof File) transfer.items.add(file);
  const over = new DragEvent("dragover", { bubbles: true, cancelable: true, dataTransfer: transfer });
  const event = new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: transfer });
  if (file && !(file instanceof File)) Object.defineProperty(event, "dataTransfer", { value: { files: [file] } });
  document.body.dispatchEvent(over);
  document.body.dispatchEvent(event);
  return over.defaultPrevented && event.defaultPrevented; // else the browser would leave the page
}

function seen(taken) {
  const length = (id) => document.querySelector(`#${id} .content`).textContent.length;
  const stages = ["bytes", "block", "tokens", "embedding", "layers", "logits", "choice"];
  return {
    taken, status: status.textContent, error: status.classList.contains("error"), file: document.getElementById("file").textContent,
    empty: stages.filter((id) => length(id) < 20), kind: document.querySelector("#bytes .content > p:last-child").textContent,
    own: document.querySelector("#tokens h3").textContent,
  };
}

const huge = { name: "huge.gguf", size: 4e9, arrayBuffer: () => Promise.reject(new Error("it was read")) };
const gone = { name: "gone.bin", size: 10, arrayBuffer: () => Promise.reject(new Error("it is gone")) };
const files = CASES.map(([name, base64]) => new File([bytesOf(base64)], name));
const notes = {};
await rest();
notes.first = seen(true);
for (const file of [...files, huge, gone, undefined]) {
  const taken = drop(file);
  await rest();
  notes[file?.name ?? "nothing"] = seen(taken);
}
document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "n", bubbles: true }));
await rest();
notes.last = seen(true);
const result = document.createElement("pre");
result.id = "result";
result.textContent = JSON.stringify(notes);
document.body.append(result);
