
// ---- Tables

/** A table whose cells are filled in place as long as its rows and columns stay the same. */
function table(holder, { caption, className, corner, columns, rows, head, side, cell }) {
  const shape = JSON.stringify([columns.map((column) => column.key), rows.map((row) => row.key)]);
  if (holder.shape !== shape) {
    holder.shape = shape;
    const top = element("tr", "", scoped("col", corner), ...columns.map((column) => scoped("col", ...head(column))));
    const lines = rows.map((row) => element("tr", "", scoped("row"), ...columns.map(() => element("td"))));
    const body = element("tbody", "", ...lines);
    holder.replaceChildren(element("table", className, element("caption", "", element("span", "", caption)), element("thead", "", top), body));
  }
  [...holder.querySelector("tbody").rows].forEach((line, index) => {
    side(line.cells[0], rows[index]);
    columns.forEach((column, at) => cell(line.cells[at + 1], rows[index], column));
  });
}

function scoped(scope, ...children) {
  const node = element("th", "", ...children);
  node.scope = scope;
  return node;
}

function matrix(holder, level, corner, caption, groups) {
  const definitions = view.definitions.filter((definition) => definition.levels.includes(level));
  const city = view.city?.area ?? "";
  const columns = [{ key: "", level: "city", area: city, operator: "", name: "City", name_zh: "全市" }, ...groups];
  const rows = definitions.map((definition) => {
    const cells = columns.map((column) => find(definition, column.level, column.area, column.operator));
    return { key: definition.id, definition, scale: scaleOf(definition.unit, cells.map((row) => row?.value)) };
  });
  const head = (column) => [column.name, column.name_zh ? chinese(column.name_zh) : null];
  table(holder, { caption, className: "matrix", corner, columns, rows, head, side: nameIndicator, cell: showIndicator });
}

function nameIndicator(node, { definition, scale }) {
  const window = windowOf(definition);
  fill(node, [definition.name, definition.name_zh, scale, window, view.window], () => {
    const unit = [scale.name, window === view.window ? "" : window].filter(Boolean).join(", ");
    return [definition.name, " ", chinese(definition.name_zh), unit && element("span", "unit", ` ${unit}`)];
  });
}

function showIndicator(node, { definition, scale }, column) {
  const row = find(definition, column.level, column.area, column.operator);
  node.classList.toggle("whole", column.level === "city");
  fill(node, [row?.value, row?.completeness, row?.target, scale], () => {
    const share = known(row?.completeness) ? `${percent(row.completeness)} complete` : "completeness not known";
    node.title = known(row?.value) ? `${exact.format(row.value)} ${UNITS[row.unit] ?? row.unit}, ${share}` : "no data";
    if (!known(row?.value)) return [element("span", "none", NONE)];
    const missed = row.target?.met === false;
    const mark = missed ? element("span", "mark", "✗") : null;
    mark?.setAttribute("aria-hidden", "true");
    const low = isLow(row.completeness);
    return [
      mark,
      missed ? unseen("target missed: ") : null,
      precise(row.value, row.target, scale),
      low ? element("small", "", percent(row.completeness)) : null,
      low ? unseen(" complete") : null,
    ];
  });
}

function renderGroups() {
  const districts = [...view.areas.values()].sort((a, b) => a.area.localeCompare(b.area)).map((row) => ({
    key: row.area, level: "district", area: row.area, operator: "", name: row.area_name || row.area, name_zh: row.area_name_zh,
  }));
  const operators = [...view.operators].sort().map((operator) => ({
    key: operator, level: "operator", area: view.city?.area ?? "", operator, name: operator, name_zh: "",
  }));
  const marks = "✗ misses its target; a small percentage is the completeness where it is below 95 %.";
  matrix(byId("district-table"), "district", "Indicator", `Each indicator in each district. ${marks}`, districts);
  matrix(byId("operator-table"), "operator", "Indicator", `Each indicator for each operator. ${marks}`, operators);
}

const KIND_NAMES = { base_station: "Base station", data_centre: "Data centre", port: "Port" };

function renderKinds() {
  const columns = [
    { key: "sites", name: "Sites" },
    { key: "heard_sites", name: "Heard" },
    { key: "registered_devices", name: "Devices" },
    { key: "unregistered_devices", name: "Unregistered" },
  ];
  table(byId("kind-table"), {
    caption: "Sites and devices by kind; heard is the sites that sent something lately.",
    className: "", corner: "Kind", columns,
    rows: view.kinds.map((kind) => ({ key: kind.kind, kind })),
    head: (column) => [column.name],
    side: (node, { kind }) => fill(node, kind.kind, () => [KIND_NAMES[kind.kind] ?? kind.kind]),
    cell: (node, { kind }, column) => countCell(node, kind[column.key]),
  });
}

function countCell(node, value) {
  fill(node, value, () => {
    node.title = known(value) ? "" : "no data";
    return [known(value) ? count(value) : element("span", "none", NONE)];
  });
}

// ---- Parts

const STATES = {
  down: ["bad", "✕ down"], degraded: ["warn", "◐ degraded"], starting: ["soft", "◌ starting"], up: ["good", "● up"],
};
const PART_NAMES = {
  mqtt: "MQTT source", modbus: "Modbus source", journal: "Journal", pipeline: "Decode and roll-up", indicator: "Indicators",
  influx: "InfluxDB sink", city_brain: "City brain",
};

const worst = (part) => Object.keys(STATES).indexOf(part.state);

function renderParts() {
  const parts = [...(view.parts ?? [])].sort((a, b) => worst(a) - worst(b));
  keyed(byId("part-list"), parts, (part) => JSON.stringify([part.kind, part.name]), () => element("li"), updatePart);
  byId("part-list").hidden = parts.length === 0;
  byId("part-summary").textContent = parts.length > 0 ? tally(parts) : "No part has reported yet.";
}

function tally(parts) {
  const states = Object.keys(STATES).filter((state) => parts.some((part) => part.state === state));
  return states.map((state) => `${count(parts.filter((part) => part.state === state).length)} ${state}`).join(" · ");
}

const clockTime = (time) => `${dayOf(time)} ${minute.format(new Date(time))}`;

function troubleLine({ subject, reason, since, count: times, next }) {
  const about = [`${subject}: ${reason}`];
  if (isTime(since)) about.push(`since ${clockTime(since)}`);
  about.push(times === 1 ? "once" : `${count(times)} times`);
  if (isTime(next)) about.push(`tried again ${clockTime(next)}`);
  return element("li", "", about.join(" · "));
}

function updatePart(node, part) {
  fill(node, part, () => {
    const [tone, word] = STATES[part.state] ?? ["soft", part.state];
    const counters = Object.entries(part.counters ?? {}).map(([name, value]) => `${words(name)} ${count(value)}`);
    const since = isTime(part.since) ? `since ${clockTime(part.since)}` : "";
    const kind = element("span", "kind", PART_NAMES[part.kind] ?? part.kind);
    const text = [part.detail, since].filter(Boolean).join(" · ");
    const troubles = (part.troubles ?? []).map(troubleLine);
    if (part.troubles_unnamed > 0) troubles.push(element("li", "", `and ${count(part.troubles_unnamed)} more`));
    return [
      element("span", `word ${tone}`, word),
      element("div", "",
        element("p", "", kind, " ", element("span", "what", part.name)),
        text && element("p", "", text),
        troubles.length > 0 ? element("ul", "troubles", ...troubles) : null,
        counters.length > 0 ? element("p", "", counters.join(" · ")) : null),
    ];
  });
}

const words = (name) => name.replaceAll("_", " ");

// ---- Ledger

function renderLedger() {
  const ledger = view.ledger;
  if (!ledger) return;
  const { messages, readings } = ledger;
  const badge = byId("balance");
  badge.className = `badge ${ledger.balanced ? "good" : "bad"}`;
  fill(badge, ledger.balanced, () => [ledger.balanced ? "✓ balanced" : "✗ not balanced"]);
  equation(byId("messages"), "Messages", ["received", messages.received], [
    ["decoded", messages.decoded, "main"],
    ["rejected", messages.rejected.total, "bad"],
    ["pending", messages.pending, "repeat"],
  ], ["Rejected", messages.rejected.reasons]);
  equation(byId("readings"), "Readings", ["decoded", readings.decoded], [
    ["applied", readings.applied, "main"],
    ["duplicate", readings.duplicate, "repeat"],
    ["conflicting", readings.conflicting, "other"],
    ["invalid", readings.invalid.total, "bad"],
    ["expired", readings.expired, "warn"],
  ], ["Invalid", readings.invalid.reasons], remarks(readings));
  renderSources(ledger.sources ?? []);
}

/** What the terms do not tell: why readings expired, and which were set to their arrival. */
function remarks(readings) {
  return [
    readings.expired > 0 && `${count(readings.expired)} came after their rows had gone by age (expired).`,
    readings.clamped > 0 && `${count(readings.clamped)} had a time too far ahead and were set to their arrival (clamped).`,
  ].filter(Boolean);
}

function equation(holder, title, [name, value], terms, [outcome, reasons], notes = []) {
  const sum = terms.reduce((total, [, value]) => total + value, 0);
  const equal = sum === value;
  fill(holder, [value, terms, reasons, notes], () => {
    const signOf = (index) => (index > 0 ? "+" : equal ? "=" : "≠");
    const list = element("dl", "terms", term("", name, value, null), ...terms.map((one, index) => term(signOf(index), ...one)));
    const stack = element("div", "stack");
    stack.setAttribute("aria-hidden", "true");
    for (const [, share, tone] of terms.filter(([, share]) => share > 0)) {
      const piece = element("i", `tone-${tone}`);
      piece.style.flexGrow = share;
      stack.append(piece);
    }
    const causes = Object.entries(reasons ?? {}).filter(([, times]) => times > 0).sort((a, b) => b[1] - a[1]);
    const listed = causes.map(([cause, times]) => element("li", "", element("b", "", count(times)), ` ${words(cause)}`));
    return [
      element("h3", "", title),
      list,
      stack,
      equal ? null : element("p", "bad", `✗ ${count(value - sum)} not accounted for`),
      listed.length > 0
        ? element("div", "reasons", element("span", "soft", `${outcome} because of`), element("ul", "", ...listed))
        : element("p", "reasons soft", `None ${outcome.toLowerCase()}.`),
      ...notes.map((note) => element("p", "soft", note)),
    ];
  });
}

function term(sign, name, value, tone) {
  const label = element("dt", "", tone ? element("span", `swatch tone-${tone}`) : null, name);
  return element("div", sign && "signed", label, element("dd", "", sign && element("span", "sign", sign), count(value)));
}

function renderSources(sources) {
  const columns = [
    ["Messages decoded", (source) => source.messages.decoded],
    ["Rejected", (source) => source.messages.rejected.total],
    ["Readings decoded", (source) => source.readings.decoded],
    ["Applied", (source) => source.readings.applied],
    ["Duplicate", (source) => source.readings.duplicate],
    ["Conflicting", (source) => source.readings.conflicting],
    ["Invalid", (source) => source.readings.invalid.total],
    ["Expired", (source) => source.readings.expired],
    ["Clamped", (source) => source.readings.clamped],
  ].map(([key, value]) => ({ key, value }));
  byId("source-table").hidden = sources.length === 0;
  table(byId("source-table"), {
    caption: "The same by source", className: "", corner: "Source", columns,
    rows: sources.map((source) => ({ key: source.source, source })),
    head: (column) => [column.key],
    side: (node, { source }) => fill(node, source.source, () => [source.source]),
    cell: (node, { source }, column) => countCell(node, column.value(source)),
  });
}
