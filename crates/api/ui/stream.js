// What happens now, for all tabs of this browser over one stream.
//
// A browser opens six connections to a host, and a stream holds one as long as it lasts: with one for each tab, the
// seventh tab would never load. So the tab that holds a lock opens the stream for all, and passes on what comes.
// Every tab says what it shows; a hidden one shows nothing.

import { signal } from "./vendor/signals.js";
import { open, part } from "./api.js";

const NAME = `slotline ${new URL(".", location.href).pathname}`;
const ME = crypto.randomUUID?.() ?? String(Math.random());
const QUIET_MS = 5000;

/** How the stream is: "connecting", "live" or "lost", since when, and why. */
export const link = signal({ state: "connecting", since: Date.now(), why: "" });
export const totals = signal(null);
/** By what a list asks for. */
export const lists = signal({});
/** Rows of single lines. */
export const rows = signal({});
/** The time by which ages are shown; it stands while the page is paused. */
export const now = signal(Date.now());
export const isPaused = signal(false);

const listeners = new Set();
/** Calls `take(event, data)` for what comes of executions. */
export function listen(take) {
  listeners.add(take);
  return () => listeners.delete(take);
}

let mine = { lists: [], lines: [], executions: {} };
const nothing = { lists: [], lines: [], executions: {} };
const shown = new Map();
const channel = new BroadcastChannel(NAME);
let isLeader = false, abort = null, timer = 0, lastAt = 0, heldLists = {}, pause = 500;

setInterval(() => {
  if (!isPaused.value) now.value = Date.now();
  if (link.value.state === "live" && Date.now() - lastAt > QUIET_MS) setLink("lost", "nothing comes from the leader");
}, 1000);

/** Says what this tab shows from now on: lists and lines by name, executions with the number of the last event. */
export function show(part) {
  mine = { ...nothing, ...part };
  announce();
}

/** Notes how far an execution's events came, for the next time that the stream is opened. */
export function came(id, number) {
  if (id in mine.executions) mine.executions[id] = Math.max(mine.executions[id], number);
}

function announce() {
  const wants = document.hidden ? nothing : mine;
  shown.set(ME, { wants, at: Date.now() });
  channel.postMessage({ from: ME, wants });
  if (isLeader) reopen();
}

document.addEventListener("visibilitychange", announce);
addEventListener("pagehide", () => channel.postMessage({ from: ME, gone: true }));
addEventListener("pageshow", (event) => event.persisted && announce());
setInterval(() => channel.postMessage({ from: ME, wants: document.hidden ? nothing : mine, again: true }), 10000);

channel.onmessage = ({ data }) => {
  if (data.ask) return channel.postMessage({ from: ME, wants: document.hidden ? nothing : mine });
  if (data.gone) shown.delete(data.from);
  else if (data.wants) shown.set(data.from, { wants: data.wants, at: Date.now() });
  else return take(data.event, data.data);
  if (isLeader && !data.again) reopen();
};

function take(event, data) {
  if (event === "link") return void (link.value = data);
  lastAt = Date.now();
  if (link.value.state !== "live") link.value = { state: "live", since: lastAt, why: "" };
  if (event === "lines") {
    // Every part is kept, also while the page stands still: the next one has only what changed since.
    const held = heldLists[data.list]?.rows ?? {};
    const all = { ...held, ...Object.fromEntries(data.rows.map((row) => [row.action_ref, row])) };
    const kept = Object.fromEntries(data.order.map((name) => [name, all[name]]).filter(([, row]) => row));
    heldLists = { ...heldLists, [data.list]: { order: data.order, rows: kept, next: data.next_cursor } };
    if (!isPaused.value) lists.value = heldLists;
  } else if (event === "totals") {
    if (!isPaused.value) totals.value = data;
  } else if (event === "line") {
    rows.value = { ...rows.value, [data.action_ref]: data };
  } else {
    for (const listener of listeners) listener(event, data);
  }
}

isPaused.subscribe((paused) => { if (!paused) lists.value = heldLists; });

function pass(event, data) {
  // What was missed of an execution comes by its last number.
  if (event === "reset") return reopen(1000);
  channel.postMessage({ event, data });
  take(event, data);
}

function setLink(state, why) {
  const next = { state, since: Date.now(), why };
  if (isLeader) channel.postMessage({ event: "link", data: next });
  link.value = next;
}

function reopen(after = 200) {
  clearTimeout(timer);
  timer = setTimeout(connect, after);
}

/** What all tabs show. Of an execution, the events that the one furthest behind lacks. */
function address() {
  const query = new Set(), executions = {};
  for (const [id, { wants, at }] of shown) {
    if (id !== ME && Date.now() - at > 35000) { shown.delete(id); continue; }
    wants.lists.forEach((list) => query.add(`lines=${part(list)}`));
    wants.lines.forEach((line) => query.add(`line=${part(line)}`));
    for (const [id, after] of Object.entries(wants.executions)) executions[id] = Math.min(executions[id] ?? Infinity, after);
  }
  const ids = Object.entries(executions).slice(0, 100).map(([id, after]) => `${id}:${after}`);
  if (ids.length) query.add(`executions=${ids.join(",")}`);
  return `stream?${[...query].join("&")}`;
}

async function connect() {
  abort?.abort();
  const mineNow = (abort = new AbortController());
  try {
    const response = await open(address(), { signal: mineNow.signal, headers: { accept: "text/event-stream" } });
    pause = 500;
    await read(response.body.getReader());
    throw new Error("the executor ended the stream");
  } catch (error) {
    if (mineNow.signal.aborted) return;
    setLink("lost", error.message);
    clearTimeout(timer);
    timer = setTimeout(connect, pause);
    pause = Math.min(pause * 2, 5000);
  }
}

async function read(reader) {
  const decoder = new TextDecoder();
  for (let text = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += decoder.decode(value, { stream: true });
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      let event = "message", data = "";
      for (const line of block.split("\n")) {
        if (line.startsWith("event: ")) event = line.slice(7);
        else if (line.startsWith("data: ")) data += line.slice(6);
      }
      if (data) pass(event, JSON.parse(data));
    }
  }
}

function lead() {
  isLeader = true;
  shown.set(ME, { wants: document.hidden ? nothing : mine, at: Date.now() });
  channel.postMessage({ ask: true });
  reopen();
}

/** Called once at the start; and again with a new token. */
export function start() {
  if (isLeader) return reopen();
  if (navigator.locks) navigator.locks.request(NAME, () => { lead(); return new Promise(() => {}); });
  else lead();
  announce();
}
