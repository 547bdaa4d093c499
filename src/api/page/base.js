// The page of Sitepulse. Everything the server says reaches the document as text: names may come from anybody's device.

const WINDOWS = ["1m", "5m", "15m", "1h", "1d"];
const NONE = "—";
const LOW = 0.95; // completeness below this is pointed out
const SILENCE_MAX_MS = 45_000; // the server sends the ledger far more often
const CHART_PAUSE_MS = 5_000; // one chart is fetched again no sooner
const RETRY_MAX_MS = 30_000;

const byId = (id) => document.getElementById(id);

// ---- Elements

function element(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

function chinese(text) {
  const node = element("span", "", text);
  node.lang = "zh";
  return node;
}

const unseen = (text) => element("span", "unseen", text);

/** Fills a node anew where what it shows has changed, and says whether it has. */
function fill(node, content, make) {
  const signature = JSON.stringify(content);
  if (node.signature === signature) return false;
  node.signature = signature;
  node.replaceChildren(...make().filter((child) => child !== null && child !== undefined && child !== ""));
  return true;
}

/** Lets the eye see that a value changed. */
function flash(node) {
  node.classList.remove("changed");
  void node.offsetWidth; // starts the animation again
  node.classList.add("changed");
}

/** Keeps one child of `list` per item, in the items' order, and leaves those that stay alone. */
function keyed(list, items, keyOf, make, update) {
  const known = (list.known ??= new Map());
  const wanted = new Set(items.map(keyOf));
  for (const [key, node] of known) {
    if (wanted.has(key)) continue;
    node.remove();
    known.delete(key);
  }
  items.forEach((item, index) => {
    const key = keyOf(item);
    if (!known.has(key)) known.set(key, make(item));
    const node = known.get(key);
    if (list.children[index] !== node) list.insertBefore(node, list.children[index] ?? null);
    update(node, item);
  });
}

// ---- Numbers and times

const DECIMALS_MAX = 9;
const fixed = Array.from({ length: DECIMALS_MAX + 1 }, (_, decimals) =>
  new Intl.NumberFormat("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals }));
const exact = new Intl.NumberFormat("en", { maximumSignificantDigits: 15 });

const known = (value) => typeof value === "number" && Number.isFinite(value);
const count = (value) => (known(value) ? fixed[0].format(value) : NONE);

const UNITS = { 1: "", "1/10^4": "per 10,000", C: "°C" };
const PREFIXED = /^(k?)(W|Wh|VA|bit|bit\/s)$/;
const PREFIXES = ["", "k", "M", "G", "T"];

/** How numbers of this unit are written: the unit's name, how many of the declared unit it is, and the decimals. */
function scaleOf(unit, values) {
  const finite = values.filter(known);
  const largest = Math.max(0, ...finite.map(Math.abs));
  let [name, factor] = [UNITS[unit] ?? unit, 1];
  const parts = PREFIXED.exec(unit);
  for (let at = PREFIXES.indexOf(parts?.[1]) + 1; parts && at < PREFIXES.length && largest / factor >= 10_000; at += 1) {
    name = PREFIXES[at] + parts[2];
    factor *= 1000;
  }
  const shown = largest / factor;
  const decimals = finite.every((value) => Number.isInteger(value / factor)) || shown >= 1000 ? 0 : shown >= 100 ? 1 : shown >= 1 ? 2 : 3;
  return { name, factor, decimals };
}

/** A value that misses its target never reads as if it met it. */
function precise(value, target, { factor, decimals }) {
  const write = (at, one) => fixed[at].format(one / factor);
  let at = decimals;
  while (target?.met === false && at < DECIMALS_MAX && write(at, value) === write(at, target.value)) at += 1;
  return write(at, value);
}

/** Completeness in whole percent; 100 and 0 only where it is all or nothing. */
function percent(share) {
  const rounded = Math.round(share * 100);
  if (rounded === 100 && share < 1) return "> 99 %";
  if (rounded === 0 && share > 0) return "< 1 %";
  return `${rounded} %`;
}

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const minute = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

const dayOf = (time) => day.format(new Date(time));
const isTime = (time) => Number.isFinite(Date.parse(time));

function period(row) {
  if (!isTime(row.start) || !isTime(row.end)) return "";
  const [start, end] = [new Date(row.start), new Date(row.end)];
  if (row.window === "1d") return dayOf(start);
  return `${dayOf(start)} ${minute.format(start)}–${minute.format(end)}`;
}
