
// ---- What is known

const view = {
  window: chosenWindow(),
  definitions: [],
  rows: new Map(), // newest row by id, level, area, operator and window
  city: null,
  areas: new Map(), // districts by code
  operators: new Set(),
  kinds: [],
  parts: null,
  ledger: null,
};

const keyOf = (row) => JSON.stringify([row.id, row.level, row.area, row.operator ?? "", row.window]);

/** Takes a row unless a newer one is known. */
function accept(row) {
  if (row.level === "site") return;
  const known = view.rows.get(keyOf(row));
  const [start, before] = [Date.parse(row.start), known ? Date.parse(known.start) : -Infinity];
  if (start < before || (start === before && row.revision < known.revision)) return;
  view.rows.set(keyOf(row), row);
  if (row.level === "district") view.areas.set(row.area, row);
  if (row.level === "operator" && row.operator) view.operators.add(row.operator);
  if (row.level === "city") view.city ??= row;
}

function find(definition, level, area, operator) {
  return view.rows.get(keyOf({ id: definition.id, level, area, operator, window: windowOf(definition) }));
}

/** The chosen window, or the next longer one that the indicator has; the longest where it has none as long. */
function windowOf(definition) {
  const has = WINDOWS.filter((window) => definition.windows.includes(window));
  return has.find((window) => WINDOWS.indexOf(window) >= WINDOWS.indexOf(view.window)) ?? has.at(-1);
}

function chosenWindow() {
  const asked = new URLSearchParams(location.search).get("window");
  return WINDOWS.includes(asked) ? asked : WINDOWS[0];
}

// ---- City

function renderCards() {
  const definitions = view.definitions.filter((definition) => definition.levels.includes("city"));
  keyed(byId("cards"), definitions, (definition) => definition.id, makeCard, updateCard);
}

function makeCard(definition) {
  const card = element("article", "card");
  card.dataset.indicator = definition.id;
  const title = element("h3", "", definition.name);
  title.title = definition.source ?? "";
  const name = element("div", "", title, chinese(definition.name_zh));
  card.value = element("p", "value");
  card.chart = element("div", "chart");
  card.facts = element("div", "facts");
  card.append(element("div", "name", name, element("span", "id", definition.id)), card.value, card.chart, card.facts);
  return card;
}

function updateCard(card, definition) {
  const row = view.city && find(definition, "city", view.city.area, "");
  const target = targetOf(definition, "city");
  const scale = scaleOf(definition.unit, [row?.value, ...(known(row?.value) ? [] : [target?.value])]);
  card.dataset.verdict = verdictOf(row, target);
  const changed = fill(card.value, [row?.value, scale, row?.target], () => valueOf(row, scale));
  if (changed && card.shown) flash(card.value);
  card.shown = true;
  fill(card.facts, [row, target, windowOf(definition), view.window, scale], () => factsOf(row, definition, target, scale));
  if (row) askForChart(card.chart, row);
}

function valueOf(row, scale) {
  if (!known(row?.value)) return [none()];
  const shown = element("span", "number", precise(row.value, row.target, scale));
  shown.title = `${exact.format(row.value)} ${UNITS[row.unit] ?? row.unit}`.trim();
  return [shown, element("span", "unit", scale.name)];
}

function none() {
  const node = element("span", "number none", NONE);
  node.title = "no data";
  return node;
}

function targetOf(definition, level) {
  return definition.target?.levels.includes(level) ? definition.target : null;
}

function verdictOf(row, target) {
  if (!target) return "none";
  const met = known(row?.value) ? row.target?.met : null;
  return met === true ? "met" : met === false ? "missed" : "unknown";
}

const VERDICTS = { met: ["good", "✓ met"], missed: ["bad", "✗ missed"], unknown: ["soft", "? not known"] };
const SENSES = { ">=": "≥", "<=": "≤" };

function factsOf(row, definition, target, scale) {
  const facts = [];
  if (target) {
    const [tone, word] = VERDICTS[verdictOf(row, target)];
    const text = `target ${SENSES[target.sense] ?? target.sense} ${exact.format(target.value / scale.factor)} ${scale.name}`;
    const wanted = element("span", "soft", text);
    wanted.title = target.source ?? "";
    facts.push(element("p", "", wanted, element("span", `verdict ${tone}`, word)));
  } else {
    facts.push(element("p", "soft", "no target"));
  }
  facts.push(track(row?.completeness));
  const complete = known(row?.completeness) ? `${percent(row.completeness)} complete` : "completeness not known";
  const window = windowOf(definition);
  const about = [window];
  if (row) about.push(period(row));
  if (row?.revision > 1) about.push(`revision ${row.revision}`);
  if (row && row.final === false) about.push("partial");
  const when = element("span", window === view.window ? "soft" : "", about.filter(Boolean).join(" · "));
  if (window !== view.window) when.title = `not computed for ${view.window}`;
  facts.push(element("p", "", element("span", isLow(row?.completeness) ? "warn" : "soft", complete), when));
  return facts;
}

const isLow = (share) => known(share) && share < LOW;

/** A bar as long as the share of what was to be heard that was heard. */
function track(share) {
  const bar = element("i");
  bar.style.width = `${known(share) ? Math.min(Math.max(share, 0), 1) * 100 : 0}%`;
  return element("span", isLow(share) ? "track low" : "track", bar);
}

// ---- Charts: drawn by the server, copied piece by piece

const SVG = new Set(["svg", "title", "path", "circle", "text"]);
const DRAWING = new Set([
  "viewBox", "role", "class", "d", "x", "y", "cx", "cy", "r", "fill", "stroke", "stroke-width", "stroke-dasharray",
  "stroke-opacity", "stroke-linecap", "stroke-linejoin", "font-size",
]);

function copyDrawing(source) {
  const copy = document.createElementNS(document.querySelector("svg").namespaceURI, source.localName);
  for (const { name, value } of source.attributes) {
    if (DRAWING.has(name)) copy.setAttribute(name, value);
  }
  for (const child of source.childNodes) {
    if (child.nodeType === Node.TEXT_NODE) copy.append(child.data);
    else if (SVG.has(child.localName)) copy.append(copyDrawing(child));
  }
  return copy;
}

const charts = { due: new Map(), busy: false };

function askForChart(holder, row) {
  const query = new URLSearchParams({ id: row.id, level: row.level, area: row.area, window: row.window }).toString();
  const wanted = `${query} ${row.start} ${row.revision}`;
  if (holder.wanted === wanted) return;
  if (holder.query !== query) holder.replaceChildren();
  Object.assign(holder, { wanted, query });
  holder.setAttribute("aria-busy", "true");
  charts.due.set(holder, query);
  void drawCharts();
}

async function drawCharts() {
  if (charts.busy) return;
  charts.busy = true;
  while (charts.due.size > 0) {
    const ready = [...charts.due].find(([holder, query]) => Date.now() - (holder.drawn?.[query] ?? 0) >= CHART_PAUSE_MS);
    if (!ready) {
      await new Promise((done) => setTimeout(done, 500));
      continue;
    }
    const [holder, query] = ready;
    charts.due.delete(holder);
    try {
      const answer = await fetch(`/api/v1/indicators/chart.svg?${query}`);
      const drawing = answer.ok ? new DOMParser().parseFromString(await answer.text(), "image/svg+xml") : null;
      // Another window may have been chosen meanwhile.
      if (drawing?.documentElement.localName === "svg" && holder.query === query) {
        holder.replaceChildren(copyDrawing(drawing.documentElement));
        holder.drawn = { [query]: Date.now() };
      }
    } catch {
      // The live stream notices that the server is gone, and its return fetches everything anew.
      holder.wanted = null;
    }
    if (!charts.due.has(holder)) holder.removeAttribute("aria-busy");
  }
  charts.busy = false;
}
