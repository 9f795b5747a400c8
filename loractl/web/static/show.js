// How things look: numbers as people read them, lines, bars, tables. Text reaches the page as text alone, because names
// come from whoever uploaded an adapter.

const SVG = "http://www.w3.org/2000/svg";
export const NOTHING = "–";
const MOST_ROWS = 200;

// An element with attributes and children; strings become text.
export const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};

const drawn = (tag, attributes) => {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
};

export const setText = (node, text) => {
  if (node.textContent !== text) node.textContent = text;
};

const trimmed = (value) => String(Number(value.toFixed(value >= 99.5 ? 0 : value >= 9.95 ? 1 : 2)));

export const amount = (value) => {
  if (value === null || value === undefined || !Number.isFinite(value)) return NOTHING;
  if (value < 0.005) return "0";
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (value >= size) return `${trimmed(value / (unit === "k" ? 1e3 : size))} ${unit}`;
  }
  return value >= 999.5 ? String(Math.round(value)) : trimmed(value);
};

export const percent = (share) => {
  if (share === null || share === undefined) return NOTHING;
  if (share > 0 && share < 0.001) return "< 0.1 %";
  return `${trimmed(share * 100)} %`;
};

export const duration = (seconds) => {
  if (seconds < 0.9995) return `${trimmed(seconds * 1000)} ms`;
  return `${trimmed(seconds)} s`;
};

export const latency = (found) => {
  if (!found) return NOTHING;
  return `${found.isBeyond ? "> " : ""}${duration(found.seconds)}`;
};

export const longTime = (seconds) => {
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  return hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
};

// A small line of the last values. It says nothing that no number beside it says, so that it is hidden from readers.
export class Sparkline {
  constructor(kind = "") {
    this.node = drawn("svg", { viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true", class: `spark ${kind}` });
    this.area = drawn("path", { class: "area" });
    this.line = drawn("path", { class: "line", "vector-effect": "non-scaling-stroke" });
    this.node.append(this.area, this.line);
  }

  draw(values, room) {
    const most = Math.max(...values, 0) || 1;
    const at = (value, i) => `${(100 - ((values.length - 1 - i) * 100) / (room - 1)).toFixed(2)},${(22.5 - (21 * value) / most).toFixed(2)}`;
    const points = values.map(at);
    this.line.setAttribute("d", points.length > 1 ? `M${points.join("L")}` : "");
    const first = points.length ? points[0].split(",")[0] : "0";
    this.area.setAttribute("d", points.length > 1 ? `M${first},24L${points.join("L")}L100,24Z` : "");
  }
}

// How much is left of something, as a bar with its text beside it.
export class Bar {
  constructor() {
    this.fill = drawn("rect", { x: "0", y: "0", width: "0", height: "6", rx: "3" });
    const picture = drawn("svg", { viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true", class: "bar" });
    picture.append(drawn("rect", { x: "0", y: "0", width: "100", height: "6", rx: "3", class: "groove" }), this.fill);
    this.label = element("span", { class: "bar-label" });
    this.text = element("span", { class: "bar-text" });
    this.node = element("div", { class: "quota" }, this.label, picture, this.text);
  }

  show(label, share, text) {
    const left = Math.min(Math.max(share, 0), 1);
    this.fill.setAttribute("width", (left * 100).toFixed(1));
    this.fill.setAttribute("class", left > 0.25 ? "is-good" : left > 0 ? "is-low" : "is-out");
    this.node.classList.toggle("is-spent", left === 0);
    setText(this.label, label);
    setText(this.text, text);
  }
}

const compare = (a, b) => {
  if (typeof a === "string" && typeof b === "string") return a < b ? -1 : a > b ? 1 : 0;
  return (a ?? -1) - (b ?? -1);
};

const byName = (a, b) => compare(a.name, b.name) || (a.version ?? 0) - (b.version ?? 0);

// A table whose rows stay the same elements while their numbers change: focus, selection and screen readers stay in place.
//
// A column has: id, title, value(row) to sort by, and either text(row) or make(cell) -> update(row).
export class Grid {
  #rows = new Map();
  #shown = [];
  #last = [];

  constructor(table, more, columns, keyOf, order) {
    this.columns = columns;
    this.keyOf = keyOf;
    this.order = order;
    this.more = more;
    this.body = table.tBodies[0];
    this.empty = element("p", { class: "quiet empty" });
    table.after(this.empty);
    this.heads = columns.map((column) => this.#head(column));
    table.tHead.rows[0].append(...this.heads);
    this.#markOrder();
  }

  #head(column) {
    const button = element("button", { type: "button" }, column.title);
    button.addEventListener("click", () => {
      const isSame = this.order.id === column.id;
      this.order = { id: column.id, isDescending: isSame ? !this.order.isDescending : column.id !== "name" };
      this.#markOrder();
      this.show(this.#last, this.nothing);
    });
    return element("th", { scope: "col", class: column.kind ?? "" }, button);
  }

  #markOrder() {
    this.columns.forEach((column, i) => {
      const direction = this.order.isDescending ? "descending" : "ascending";
      this.heads[i].setAttribute("aria-sort", column.id === this.order.id ? direction : "none");
    });
  }

  #make() {
    const updates = [];
    const node = element("tr");
    for (const column of this.columns) {
      const cell = column.id === "name" ? element("th", { scope: "row" }) : element("td");
      cell.className = column.kind ?? "";
      updates.push(column.make ? column.make(cell) : (row) => setText(cell, column.text(row)));
      node.append(cell);
    }
    return { node, update: (row) => updates.forEach((each) => each(row)) };
  }

  show(rows, nothing) {
    this.#last = rows;
    this.nothing = nothing;
    const column = this.columns.find((each) => each.id === this.order.id);
    const sign = this.order.isDescending ? -1 : 1;
    const sorted = [...rows].sort((a, b) => sign * compare(column.value(a), column.value(b)) || byName(a, b));
    const shown = sorted.slice(0, MOST_ROWS);
    const keys = shown.map(this.keyOf);
    const kept = new Set(keys);
    for (const [key, row] of this.#rows) {
      if (kept.has(key)) continue;
      row.node.remove();
      this.#rows.delete(key);
    }
    shown.forEach((row, i) => {
      if (!this.#rows.has(keys[i])) this.#rows.set(keys[i], this.#make());
      this.#rows.get(keys[i]).update(row);
    });
    this.#arrange(keys);
    setText(this.empty, nothing);
    this.empty.hidden = rows.length > 0;
    this.more.hidden = sorted.length <= MOST_ROWS;
    setText(this.more, `${sorted.length - MOST_ROWS} more; narrow them down with the filter.`);
  }

  #arrange(keys) {
    if (keys.length === this.#shown.length && keys.every((key, i) => key === this.#shown[i])) return;
    const held = document.activeElement;
    this.body.append(...keys.map((key) => this.#rows.get(key).node));
    if (held !== document.activeElement && this.body.contains(held)) held.focus();
    this.#shown = keys;
  }
}
