// The page: which screen is shown, and what is around it. The address after "#" says all that is shown.

import { render } from "./vendor/preact.js";
import { useEffect, useRef } from "./vendor/hooks.js";
import { signal } from "./vendor/signals.js";
import { html, toast, Dialog } from "./parts.js";
import { tokenNeeded, setToken, hasToken } from "./api.js";
import { start, link, isPaused, now } from "./stream.js";
import { length } from "./words.js";
import { Lines } from "./lines.js";
import { Line } from "./line.js";
import { Execution, Executions } from "./execution.js";
import { Workers } from "./workers.js";
import { Dead, Audit, Run } from "./more.js";

const SCREENS = {
  lines: ["Lines", Lines, "l"], executions: ["Executions", Executions, "e"], workers: ["Workers", Workers, "w"],
  dead: ["Dead letters", Dead, "d"], audit: ["Audit", Audit, "a"], run: ["Run", Run, "r"],
};
const INNER = { line: Line, execution: Execution };

const read = () => {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [screen, ...rest] = path.split("/").map((text) => { try { return decodeURIComponent(text); } catch { return text; } });
  return { screen: screen || "lines", rest, query: new URLSearchParams(query ?? "") };
};
const place = signal(read());
addEventListener("hashchange", () => { place.value = read(); });

/** Changes what is behind "?" in the address. */
export function setQuery(changes) {
  const query = new URLSearchParams(place.value.query);
  for (const [name, value] of Object.entries(changes)) value ? query.set(name, value) : query.delete(name);
  const text = query.toString();
  history.replaceState(null, "", `#/${[place.value.screen, ...place.value.rest].map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`);
  place.value = read();
}

const THEME = "slotline-theme";
const theme = signal(localStorage.getItem(THEME) ?? "");
theme.subscribe((value) => {
  if (value) document.documentElement.dataset.theme = value;
  else delete document.documentElement.dataset.theme;
  localStorage.setItem(THEME, value);
});
const isHelp = signal(false);

function Link() {
  const { state, since, why } = link.value;
  if (state === "live") return html`<span class="state running">live</span>`;
  const age = length((now.value - since) / 1000);
  return html`<span class=${`state ${state === "lost" ? "stuck" : ""}`} role="status">${state === "lost" ? `no news for ${age}: ${why}; trying again` : "connecting"}</span>`;
}

function Token() {
  const submit = (event) => {
    event.preventDefault();
    setToken(new FormData(event.target).get("token").trim());
    start();
    place.value = read();
  };
  return html`<main><h1>This API needs a token</h1>
    ${tokenNeeded.value === "wrong" && html`<p class="strip" role="alert">The token is not one of this API's.</p>`}
    <form class="tools" onSubmit=${submit}><label>Token<input name="token" type="password" required autocomplete="off" /></label>
      <button class="main">Use it</button></form>
    <p class="soft">It stays in this tab until that is closed. It is the one in <code>SLOTLINE_API_TOKEN</code>.</p></main>`;
}

const KEYS = [["/", "search"], ["j, k", "next, previous row"], ["Enter", "open the row"], ["p", "hold the page still"],
  ["g then l, e, w, d, a, r", "lines, executions, workers, dead letters, audit, run"], ["c", "cancel the execution"], ["?", "this help"], ["Esc", "back"]];

function Help() {
  const box = useRef(null);
  useEffect(() => { box.current.showModal(); }, []);
  return html`<dialog ref=${box} onClose=${() => (isHelp.value = false)} aria-labelledby="keys"><h2 id="keys">Keys</h2>
    <dl class="pair">${KEYS.map(([key, what]) => html`<dt><code>${key}</code></dt><dd>${what}</dd>`)}</dl>
    <form method="dialog" class="row"><button class="main">Close</button></form></dialog>`;
}

function App() {
  const { screen, rest, query } = place.value;
  const main = useRef(null);
  const Screen = INNER[screen] ?? SCREENS[screen]?.[1];
  const title = SCREENS[screen]?.[0] ?? rest[0] ?? "";
  useEffect(() => { document.title = `${title} · Slotline`; }, [title]);
  useEffect(() => { main.current?.focus(); scrollTo(0, 0); }, [screen, rest.join("/")]);
  const next = { "": "dark", dark: "light", light: "" }[theme.value];
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); main.current?.focus(); }}>To the content</a>
    <header class="top"><a class="name" href="#/lines">Slotline</a>
      <nav aria-label="Screens">${Object.entries(SCREENS).map(([name, [text]]) => html`<a href=${`#/${name}`}
        aria-current=${name === screen || (name === "lines" && screen === "line") || (name === "executions" && screen === "execution") ? "page" : undefined}>${text}</a>`)}</nav>
      <span class="right">${link.value && html`<${Link} />`}
        <button aria-pressed=${String(isPaused.value)} onClick=${() => (isPaused.value = !isPaused.value)}>${isPaused.value ? "Held still" : "Hold still"}</button>
        <button onClick=${() => (theme.value = next)} aria-label=${`Colours: ${theme.value || "as the system has them"}`}>${theme.value || "auto"}</button>
        ${hasToken() && html`<button onClick=${() => { setToken(null); location.reload(); }}>Forget the token</button>`}
        <button onClick=${() => (isHelp.value = true)} aria-label="Keys">?</button></span></header>
    ${tokenNeeded.value !== "none" ? html`<${Token} />` : html`<main id="main" tabindex="-1" ref=${main}>
      ${Screen ? html`<${Screen} key=${[screen, ...rest].join("/")} rest=${rest} query=${query} setQuery=${setQuery} />`
        : html`<h1>There is no such screen</h1><p><a href="#/lines">To the lines</a></p>`}</main>`}
    <div class="toast" role="status" aria-live="polite">${toast.value && html`<p class=${`strip ${toast.value.kind}`}>${toast.value.text}</p>`}</div>
    <${Dialog} />${isHelp.value && html`<${Help} />`}`;
}

let goes = 0;
function rowStep(step) {
  const all = [...document.querySelectorAll("tbody tr[data-open]")];
  if (!all.length) return;
  const at = all.findIndex((row) => row.classList.contains("at"));
  const next = all[Math.min(all.length - 1, Math.max(0, at + step))];
  all[at]?.classList.remove("at");
  next.classList.add("at");
  next.querySelector("a")?.focus();
}
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const isTyping = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  if (event.key === "Escape") return isTyping ? event.target.blur() : history.back();
  if (isTyping) return;
  if (Date.now() - goes < 1500) {
    goes = 0;
    const found = Object.entries(SCREENS).find(([, [, , key]]) => key === event.key);
    if (found) { event.preventDefault(); location.hash = `#/${found[0]}`; return; }
  }
  const act = {
    "/": () => document.querySelector("[data-search]")?.focus(), "?": () => (isHelp.value = true),
    p: () => (isPaused.value = !isPaused.value), j: () => rowStep(1), k: () => rowStep(-1), g: () => (goes = Date.now()),
    c: () => document.querySelector("[data-key=c]")?.click(),
  }[event.key];
  if (act) { event.preventDefault(); act(); }
});

const root = document.getElementById("app");
root.textContent = "";
start();
render(html`<${App} />`, root);
