
// ---- The whole

function renderHead() {
  const city = view.city;
  if (city) {
    const name = city.area_name || city.area;
    fill(byId("place"), [name, city.area_name_zh], () => [name, " ", city.area_name_zh ? chinese(city.area_name_zh) : null]);
    document.title = `${name} · Sitepulse`;
  }
  const cards = [...byId("cards").children].map((card) => card.dataset.verdict);
  const targets = cards.filter((verdict) => verdict !== "none").length;
  const met = cards.filter((verdict) => verdict === "met").length;
  const ailing = (view.parts ?? []).filter((part) => part.state === "down" || part.state === "degraded").length;
  const lines = [[count(view.definitions.length), "indicators"], [`${met} of ${targets}`, "targets met"]];
  if (view.parts) lines.push(ailing > 0 ? [count(ailing), "of the parts down or degraded"] : ["all", "parts well"]);
  if (view.ledger) lines.push(view.ledger.balanced ? ["balanced", "ledger"] : ["unbalanced", "ledger"]);
  fill(byId("summary"), lines, () =>
    lines.flatMap(([strong, rest], index) => [index > 0 ? " · " : "", element("b", "", strong), ` ${rest}`]));
}

let planned = false;

/** Renders soon, once for all that came meanwhile. */
function plan() {
  if (planned) return;
  planned = true;
  setTimeout(() => {
    planned = false;
    render();
  }, 200);
}

function render() {
  for (const section of [renderCards, renderGroups, renderKinds, renderParts, renderLedger, renderHead]) {
    try {
      section();
    } catch (error) {
      console.error(`${section.name} failed`, error); // the others go on
    }
  }
}

function makeChooser() {
  for (const window of WINDOWS) {
    const input = element("input");
    Object.assign(input, { type: "radio", name: "window", value: window, checked: window === view.window });
    input.addEventListener("change", () => {
      view.window = window;
      history.replaceState(null, "", `?window=${window}${location.hash}`);
      render();
    });
    byId("windows").append(element("label", "", input, element("span", "", window)));
  }
}

// ---- Connection

const STATE_WORDS = { loading: "Connecting …", live: "Live", lost: "Connection lost, retrying", locked: "Locked" };

function setState(state) {
  if (document.documentElement.dataset.state !== state) document.documentElement.dataset.state = state;
  if (byId("state").textContent !== STATE_WORDS[state]) byId("state").textContent = STATE_WORDS[state];
}

let [stream, heard, wait, attempt] = [null, 0, 1000, null];

function touch() {
  heard = Date.now();
  byId("updated").textContent = `updated ${clock.format(new Date())}`;
}

class Locked extends Error {}

async function ask(path) {
  const answer = await fetch(`/api/v1/${path}`, { headers: { accept: "application/json" }, signal: AbortSignal.timeout(20_000) });
  if (answer.status === 401) throw new Locked(path);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

async function refresh() {
  const levels = ["city", "district", "operator"].map((level) => `indicators/latest?level=${level}`);
  const asked = ["indicator_definitions", "health", "ledger", ...levels];
  const [definitions, health, ledger, ...latest] = await Promise.all(asked.map(ask));
  Object.assign(view, { definitions: definitions.rows, parts: health.parts, ledger });
  latest.forEach(({ rows }) => rows.forEach(accept));
  byId("content").hidden = false;
  byId("login").hidden = true;
  touch();
  render();
}

/** Counts sites by kind anew, which may take the server a while; the old numbers stay where it cannot. */
async function countSites() {
  try {
    view.kinds = (await ask("sites?summary=true")).kinds;
    renderKinds();
  } catch {
    // Whether the server is there at all is for the live stream to notice.
  }
  byId("kind-table").removeAttribute("aria-busy");
}

/** Fetches all there is, then follows the live stream. */
async function start() {
  clearTimeout(attempt);
  stream?.close();
  heard = Date.now();
  try {
    await refresh();
    follow();
    void countSites();
  } catch (error) {
    if (error instanceof Locked) return lock();
    lose();
  }
}

function lose() {
  setState("lost");
  stream?.close();
  clearTimeout(attempt);
  attempt = setTimeout(start, wait * (0.75 + Math.random() / 2));
  wait = Math.min(wait * 2, RETRY_MAX_MS);
}

function follow() {
  stream = new EventSource("/api/v1/live");
  const take = (name, use) =>
    stream.addEventListener(name, (event) => {
      use(JSON.parse(event.data));
      touch();
      plan();
    });
  take("indicator", accept);
  take("ledger", (ledger) => (view.ledger = ledger));
  take("health", (health) => (view.parts = health.parts));
  // We were too slow for it, so that some events are missing.
  stream.addEventListener("missed", start);
  stream.addEventListener("open", () => {
    wait = 1000;
    setState("live");
  });
  // What came meanwhile is missing then, so everything is fetched anew.
  stream.addEventListener("error", lose);
}

function lock() {
  setState("locked");
  byId("content").hidden = true;
  byId("login").hidden = false;
  byId("token").focus();
}

byId("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  byId("refused").textContent = "";
  const body = JSON.stringify({ token: byId("token").value });
  try {
    const answer = await fetch("/api/v1/session", { method: "POST", headers: { "content-type": "application/json" }, body });
    if (answer.ok) return location.reload();
    byId("refused").textContent = answer.status === 401 ? "That is not the token." : `The server answered ${answer.status}.`;
  } catch {
    byId("refused").textContent = "The server does not answer.";
  }
});

setInterval(() => {
  const state = document.documentElement.dataset.state;
  if (state === "live" && Date.now() - heard > SILENCE_MAX_MS) void start();
}, 5_000);

setInterval(() => {
  if (document.documentElement.dataset.state === "live") void countSites();
}, 60_000);

byId("zone").textContent = `Times are in ${new Intl.DateTimeFormat().resolvedOptions().timeZone}.`;
makeChooser();
void start();
