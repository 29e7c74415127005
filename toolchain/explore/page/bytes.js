// Reading declared records from a file's bytes: every length is checked against what is left of the file.

// What is wrong with a file: a word of words.js, and the numbers or names that go into it.
export class FileError extends Error {
  constructor(key, details = {}) {
    super(`${key} ${JSON.stringify(details)}`);
    this.key = key;
    this.details = details;
  }
}

// The codes of Python's struct module: how many bytes, and how a DataView reads them (always little-endian here).
const NUMBERS = {
  b: [1, (view, at) => view.getInt8(at)],
  B: [1, (view, at) => view.getUint8(at)],
  "?": [1, (view, at) => view.getUint8(at) !== 0],
  h: [2, (view, at) => view.getInt16(at, true)],
  H: [2, (view, at) => view.getUint16(at, true)],
  i: [4, (view, at) => view.getInt32(at, true)],
  I: [4, (view, at) => view.getUint32(at, true)],
  q: [8, (view, at) => Number(view.getBigInt64(at, true))],
  Q: [8, (view, at) => Number(view.getBigUint64(at, true))],
  f: [4, (view, at) => view.getFloat32(at, true)],
  d: [8, (view, at) => view.getFloat64(at, true)],
};

export const sizeOf = (code) => NUMBERS[code][0];

// A position in a file that cannot be moved past its end.
export class Cursor {
  constructor(bytes, offset = 0) {
    this.bytes = bytes; // Uint8Array, the whole file
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.offset = offset;
  }

  get left() {
    return this.bytes.length - this.offset;
  }

  take(size, field) {
    if (!(size >= 0 && size <= this.left)) {
      throw new FileError("cut_off", { field, offset: this.offset, size, left: this.left });
    }
    this.offset += size;
    return this.bytes.subarray(this.offset - size, this.offset);
  }

  number(code, field) {
    const [size, read] = NUMBERS[code];
    this.take(size, field);
    return read(this.view, this.offset - size);
  }

  // Refuses a count of things of at least `smallest` bytes each for which the file has no room.
  count(count, smallest, field) {
    if (!(count >= 0 && count * smallest <= this.left)) {
      throw new FileError("count", { field, offset: this.offset, count, left: this.left });
    }
    return count;
  }
}

// One field of a record; `values` holds the earlier ones.
function readField(cursor, field, values, readTyped) {
  if (field.typed) return readTyped(cursor, values[field.typed]);
  if (field.length) return cursor.take(values[field.length], field.name);
  if (field.multiple) return cursor.take((field.multiple - (cursor.offset % field.multiple)) % field.multiple, field.name);
  if (!field.count) return cursor.number(field.code, field.name);
  const count = cursor.count(values[field.count], sizeOf(field.code), field.name);
  return Array.from({ length: count }, () => cursor.number(field.code, field.name));
}

// A record's values by name. What was read where is appended to `spans`: the list that the page shows beside the bytes.
export function readRecord(cursor, record, path, spans, readTyped) {
  const values = {};
  for (const field of record) {
    const offset = cursor.offset;
    values[field.name] = readField(cursor, field, values, readTyped);
    const size = cursor.offset - offset;
    if (size) spans.push({ offset, size, path: `${path}.${field.name}`, value: values[field.name], doc: field.doc });
  }
  return values;
}

const UTF8 = new TextDecoder();
export const textOf = (bytes) => UTF8.decode(bytes);
export const bytesOf = (text) => new TextEncoder().encode(text);
// A key for maps: bytes as a string of one character per byte.
export const keyOf = (bytes) => Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
