// The page: asks the server's live state every two seconds, and shows it.

import { Trail, keyOf } from "/ui/rates.js";
import { Bar, Grid, NOTHING, Sparkline, amount, element, latency, longTime, percent, setText } from "/ui/show.js";

const STATE = "/loractl/v1/state";
const KEY = "loractl.operator-key";
const EVERY_MS = 2000;
const PATIENCE_MS = 8000;
const MOMENTS = 60;
// Without a prototype: an adapter may be called __proto__.
const SPOKEN = { __proto__: null, _other: "all others", _unknown: "unknown names" };
const LIMITS = {
  __proto__: null,
  requests_per_minute: "requests / min",
  tokens_per_minute: "tokens / min",
  concurrent: "at once",
  tokens_per_day: "tokens / day",
};

const at = (id) => document.getElementById(id);
const total = (counts) => Object.values(counts).reduce((all, each) => all + each, 0);

class KeyWantedError extends Error {}

// The history of one number, and its line.
class Course {
  constructor(kind) {
    this.values = [];
    this.line = new Sparkline(kind);
  }

  add(value) {
    this.values.push(value ?? 0);
    if (this.values.length > MOMENTS) this.values.shift();
    this.line.draw(this.values, MOMENTS);
  }
}

const TILES = [
  { title: "Requests", unit: "/ s", value: (s, w) => w?.requests, note: (s) => `${amount(s.totals.requests)} since the start` },
  { title: "Tokens out", unit: "/ s", value: (s, w) => w?.outputTokens, note: (s, w) => `${amount(w?.inputTokens)} / s in` },
  { title: "First token", text: (s, w) => latency(w?.ttft.p50), value: (s, w) => w?.ttft.p50?.seconds, note: (s, w) => `p99 ${latency(w?.ttft.p99)}` },
  { title: "Between tokens", text: (s, w) => latency(w?.interToken.p50), value: (s, w) => w?.interToken.p50?.seconds, note: (s, w) => `p99 ${latency(w?.interToken.p99)}` },
  { title: "In flight", unit: (s) => `of ${s.engine.max_num_seqs}`, value: (s) => s.in_flight, note: (s, w) => `${s.waiting} waiting, p99 ${latency(w?.queue.p99)}` },
  { title: "Errors", text: (s, w) => percent(w?.errorShare), value: (s, w) => w?.errorShare, kind: "is-bad", note: (s, w) => `${percent(w?.refusedShare)} refused` },
];

const makeTile = (tile) => {
  const [figure, unit, note] = [element("span", { class: "figure" }), element("span", { class: "unit" }), element("p", { class: "quiet" })];
  const course = new Course(tile.kind);
  at("tiles").append(element("article", { class: "card tile" }, element("h3", {}, tile.title), element("p", { class: "value" }, figure, unit), note, course.line.node));
  return (state, found) => {
    const rates = found?.total;
    const value = tile.value(state, rates);
    setText(figure, tile.text ? tile.text(state, rates) : amount(value));
    setText(unit, typeof tile.unit === "function" ? tile.unit(state) : (tile.unit ?? ""));
    setText(note, tile.note(state, rates));
    course.add(value);
  };
};

const number = (id, title, value, text) => ({ id, title, kind: "number", value, text: text ?? ((row) => amount(value(row))) });

const named = (cell) => {
  const name = element("span", { class: "name" });
  cell.append(name);
  return (row) => {
    setText(name, SPOKEN[row.name] ?? (row.version === null || row.version === undefined ? row.name : `${row.name}@${row.version}`));
    name.classList.toggle("is-ours", row.name in SPOKEN);
  };
};

const staged = (cell) => {
  const chip = element("span", { class: "chip" });
  cell.append(chip);
  return (row) => {
    const stage = row.isBase ? "base" : (row.stage ?? NOTHING);
    setText(chip, stage);
    chip.className = `chip ${["base", "live", "approved"].includes(stage) ? `is-${stage}` : ""}`;
  };
};

const resident = (cell) => {
  const [dot, text] = [element("span", { class: "dot", "aria-hidden": "true" }), element("span", { class: "unseen" })];
  cell.append(dot, text);
  return (row) => {
    dot.classList.toggle("is-on", row.is_resident);
    cell.title = row.is_resident ? "in a slot of the engine" : "not in a slot";
    setText(text, cell.title);
  };
};

const courses = new Map();
const course = (cell) => {
  let shown = null;
  return (row) => {
    const line = courses.get(row.key)?.line.node;
    if (line && line !== shown) cell.replaceChildren((shown = line));
  };
};

const quotas = (cell) => {
  const bars = [];
  return (row) => {
    while (bars.length > row.standing.length) bars.pop().node.remove();
    while (bars.length < row.standing.length) bars.push(new Bar()), cell.append(bars.at(-1).node);
    row.standing.forEach((each, i) => {
      const left = Math.max(each.remaining, 0);
      bars[i].show(LIMITS[each.kind] ?? each.kind, each.limit ? left / each.limit : 0, `${amount(left)} of ${amount(each.limit)} left`);
    });
    cell.classList.toggle("quiet", row.standing.length === 0);
    if (!row.standing.length) setText(cell, "no limits");
    else for (const node of [...cell.childNodes]) if (node.nodeType === Node.TEXT_NODE) node.remove();
  };
};

const SHARED = [
  number("rate", "Requests / s", (row) => row.rates?.requests),
  number("tokens", "Tokens / s", (row) => row.rates?.outputTokens),
  number("p50", "First token p50", (row) => row.rates?.ttft.p50?.seconds, (row) => latency(row.rates?.ttft.p50)),
  number("p99", "p99", (row) => row.rates?.ttft.p99?.seconds, (row) => latency(row.rates?.ttft.p99)),
  number("errors", "Errors", (row) => row.rates?.errorShare, (row) => percent(row.rates?.errorShare)),
  number("queue", "Waiting", (row) => row.waiting, (row) => String(row.waiting)),
  number("flight", "In flight", (row) => row.in_flight, (row) => String(row.in_flight)),
  number("share", "Engine", (row) => row.rates?.busyShare, (row) => percent(row.rates?.busyShare)),
];

const adapters = new Grid(at("adapters"), at("adapters-more"), [
  { id: "name", title: "Adapter", value: (row) => row.name, make: named },
  { id: "stage", title: "Stage", value: (row) => row.stage ?? "", make: staged },
  { id: "slot", title: "Slot", kind: "centre", value: (row) => Number(row.is_resident), make: resident },
  ...SHARED,
  { id: "course", title: "Traffic", kind: "course", value: (row) => row.rates?.outputTokens, make: course },
], (row) => row.key, { id: "tokens", isDescending: true });

const tenants = new Grid(at("tenants"), at("tenants-more"), [
  { id: "name", title: "Tenant", value: (row) => row.name, make: named },
  number("weight", "Weight", (row) => row.weight),
  { id: "priority", title: "Class", value: (row) => row.priority ?? "", text: (row) => row.priority ?? "" },
  ...SHARED,
  number("refused", "Refused", (row) => total(row.totals.refused)),
  { id: "quotas", title: "Left of its limits", kind: "wide", value: (row) => Math.max(-1, ...row.standing.map((each) => 1 - each.remaining / (each.limit || 1))), make: quotas },
], (row) => row.key, { id: "tokens", isDescending: true });

const tiles = TILES.map(makeTile);
const trail = new Trail();
let latest = null;

const follow = (rows) => {
  const keys = new Set(rows.map((row) => row.key));
  for (const key of courses.keys()) if (!keys.has(key)) courses.delete(key);
  for (const row of rows) {
    if (!courses.has(row.key)) courses.set(row.key, new Course());
    courses.get(row.key).add(row.rates?.outputTokens);
  }
};

const showRows = () => {
  const wanted = at("filter").value.trim().toLowerCase();
  const matching = latest.adapters.filter((row) => `${row.name}@${row.version ?? ""} ${row.stage ?? ""}`.toLowerCase().includes(wanted));
  adapters.show(matching, wanted ? "No adapter matches the filter." : "No adapter is served.");
  tenants.show(latest.tenants, "No tenants: whoever reaches the port may ask.");
};

const showFacts = (state) => {
  setText(at("base"), state.base.name);
  document.title = `${state.base.name} · loractl`;
  const isOk = state.health.status === "ok";
  at("health").hidden = at("facts").hidden = false;
  at("health").className = `pill ${isOk ? "is-good" : "is-bad"}`;
  setText(at("health"), isOk ? "healthy" : `${state.health.status}${state.health.reason ? `: ${state.health.reason}` : ""}`);
  const held = state.adapters.filter((row) => row.is_resident && row.version !== null).length;
  const facts = {
    Fairness: state.fairness,
    Slots: `${held} of ${state.engine.slots}`,
    "KV cache": percent(state.engine.kv_use),
    Up: typeof state.uptime_s === "number" ? longTime(state.uptime_s) : NOTHING,
  };
  at("facts").replaceChildren(...Object.entries(facts).map(([term, fact]) => element("div", {}, element("dt", {}, term), element("dd", {}, fact))));
};

const show = (state) => {
  const found = trail.add(state);
  const rated = (rows, rates) => rows.map((row) => ({ ...row, key: keyOf(row), rates: rates?.get(keyOf(row)) }));
  latest = { adapters: rated(state.adapters, found?.adapters), tenants: rated(state.tenants, found?.tenants) };
  if (latest.adapters.length) latest.adapters[0].isBase = true;
  showFacts(state);
  tiles.forEach((tile) => tile(state, found));
  follow(latest.adapters);
  showRows();
  at("content").hidden = at("pause").hidden = false;
};

const notice = (text, isBad = false) => {
  setText(at("notice"), text);
  at("notice").hidden = !text;
  at("notice").classList.toggle("is-bad", isBad);
};

const ask = async () => {
  const key = sessionStorage.getItem(KEY);
  const answer = await fetch(STATE, {
    headers: key ? { authorization: `Bearer ${key}` } : {},
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
    signal: AbortSignal.timeout(PATIENCE_MS),
  });
  if (answer.status === 401 || answer.status === 403) throw new KeyWantedError();
  if (!answer.ok) throw new Error(`it answers ${answer.status}`);
  const state = await answer.json();
  if (state.format !== 1) throw new Error("it is of another version than this page; load the page again");
  return state;
};

const wantKey = () => {
  const hadKey = sessionStorage.getItem(KEY) !== null;
  sessionStorage.removeItem(KEY);
  notice(hadKey ? "The server does not accept this key." : "", hadKey);
  const isNew = at("unlock").hidden;
  at("unlock").hidden = false;
  at("content").hidden = at("pause").hidden = at("forget").hidden = true;
  if (isNew || hadKey) at("key").focus();
};

let timer = null;
let isAsking = false;
let isPaused = false;

const tick = async () => {
  clearTimeout(timer);
  if (isAsking) return;
  isAsking = true;
  try {
    show(await ask());
    notice("");
    at("unlock").hidden = true;
    at("forget").hidden = sessionStorage.getItem(KEY) === null;
  } catch (error) {
    if (error instanceof KeyWantedError) wantKey();
    else notice(`The server cannot be reached (${error.name === "TypeError" ? "no answer" : error.name === "TimeoutError" ? "it is too slow" : error.message}). Asking again.`, true);
  } finally {
    isAsking = false;
  }
  const isWaiting = !at("unlock").hidden || isPaused || document.hidden;
  if (!isWaiting) timer = setTimeout(tick, EVERY_MS);
};

at("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = at("key").value.trim();
  at("key").value = "";
  if (!/^[\x21-\x7e]+$/.test(key)) return notice("A key has no spaces and no letters beyond ASCII.", true);
  sessionStorage.setItem(KEY, key);
  tick();
});

at("forget").addEventListener("click", () => {
  sessionStorage.removeItem(KEY);
  clearTimeout(timer);
  wantKey();
});

at("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  at("pause").setAttribute("aria-pressed", String(isPaused));
  setText(at("pause"), isPaused ? "Go on" : "Pause");
  if (isPaused) clearTimeout(timer);
  else tick();
});

at("filter").addEventListener("input", () => latest && showRows());
document.addEventListener("visibilitychange", () => !document.hidden && !isPaused && at("unlock").hidden && tick());
tick();
