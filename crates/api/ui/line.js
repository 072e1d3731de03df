// One line: what holds its slots, what waits in its order, and what a person may change.

import { useEffect, useState } from "./vendor/hooks.js";
import { html, Ago, State, Spark, Empty, Failed, useLoaded, ask, say, to } from "./parts.js";
import { rows, show, now } from "./stream.js";
import { change, remove, part } from "./api.js";
import { count, drain, eta, length, percent } from "./words.js";

const PAGE = 50;

const FOR = [["15m", "15 minutes"], ["1h", "an hour"], ["2h", "two hours"], ["8h", "eight hours"], ["24h", "a day"], ["168h", "a week"]];

export async function doIt(what, action) {
  try {
    await action();
    say(what);
    return true;
  } catch (error) {
    say(error.message, "");
    return false;
  }
}

async function setPaused(name, isPaused) {
  const answer = await ask(isPaused ? `Pause ${name}` : `Resume ${name}`, [{ name: "reason", label: "Why (for the audit)" }],
    isPaused ? "Pause" : "Resume", isPaused ? "What runs goes on; nothing else starts." : "What waits starts as slots are free.");
  if (answer) return doIt(isPaused ? `${name} is paused` : `${name} goes on`,
    () => change("POST", `actions/${part(name)}/${isPaused ? "pause" : "resume"}`, answer.reason ? { reason: answer.reason } : {}));
}

async function setLimit(name, row) {
  const answer = await ask(`Limit of ${name}`, [
    { name: "limit", label: "At once (empty: no limit)", type: "number", min: 1, value: row.limit ?? "" },
    { name: "for", label: "For", options: FOR, value: "2h" },
    { name: "reason", label: "Why (for the audit)", required: true },
  ], "Override the limit", "It holds instead of the declared limit until its time is over. Applying the file again does not end it.");
  if (!answer) return;
  const limit = answer.limit === "" ? null : Number(answer.limit);
  return doIt(`${name} may run ${limit ?? "as many as there is room for"} at once`,
    () => change("PUT", `actions/${part(name)}/limit`, { limit, for: answer.for, reason: answer.reason }));
}

function Limits({ name, row, again }) {
  const over = row.limit_override, declared = row.declared_limit ?? "none";
  const reset = async () => { await doIt(`the declared limit of ${name} holds again`, () => remove(`actions/${part(name)}/limit`)); again(); };
  return html`<p class="tools"><span>Limit: declared <b>${declared}</b>${over && html`, <b>override ${over.limit ?? "none"}</b> until${" "}
      <time datetime=${over.until}>${new Date(over.until).toLocaleString()}</time>, by ${over.actor}${over.reason && `: ${over.reason}`}`}</span>
    <button onClick=${async () => { await setLimit(name, row); again(); }}>Override…</button>
    ${over && html`<button onClick=${reset}>Back to declared</button>`}
    <button onClick=${async () => { await setPaused(name, row.state !== "paused"); again(); }}>${row.state === "paused" ? "Resume…" : "Pause…"}</button></p>`;
}

export function Line({ rest: [name], query, setQuery }) {
  const key = query.get("key"), isKeyless = query.get("keyless") === "true";
  useEffect(() => { show({ lines: [name] }); return () => show({}); }, [name]);
  const path = `lines/${part(name)}`;
  const first = useLoaded(path, 30000);
  const live = rows.value[name];
  const row = live ?? first.answer?.data;
  if (!row) return html`<h1>${name}</h1><${Failed} error=${first.error} />`;
  const which = key != null ? `&key=${part(key)}` : isKeyless ? "&keyless=true" : "";
  const hasKeys = row.key_limit != null, isWhole = hasKeys && !which;
  const detail = first.answer?.data;
  return html`<p><a href="#/lines">Lines</a></p><h1>${name} <${State} is=${row.state} /></h1>
    <${Failed} error=${first.error} />
    ${row.state === "stuck" && html`<p class="strip">Slots are free, and no worker serves ${name}: start one that lists it, <code>slotline worker</code>.</p>`}
    <dl class="facts">
      <div><dt>Waiting</dt><dd data-fact="waiting">${count(row.waiting)} <small>${row.backing_off ? `${count(row.backing_off)} back off` : ""}</small></dd></div>
      <div><dt>Running</dt><dd data-fact="running">${count(row.running)} <small>of ${row.limit ?? "no limit"}</small></dd></div>
      <div><dt>Oldest</dt><dd><${Ago} at=${row.oldest_enqueued_at} /></dd></div>
      <div><dt>Empty</dt><dd>${drain(row, now.value)}</dd></div>
      <div><dt>A run takes</dt><dd>${row.run_mean_seconds != null ? length(row.run_mean_seconds) : "-"} <small>${detail?.run_seconds ? `p90 ${length(detail.run_seconds.p90)}` : ""}</small></dd></div>
      <div><dt>Last minutes</dt><dd><${Spark} values=${row.history} /></dd></div></dl>
    <${Limits} name=${name} row=${row} again=${first.again} />
    ${hasKeys && html`<${Keys} name=${name} row=${row} chosen=${key} setQuery=${setQuery} />`}
    <div class="cols"><section class="box"><h2>Holding${key != null ? ` (key ${key})` : ""}</h2><${Holders} path=${`${path}/holders?limit=${PAGE}${which}`} /></section>
      <section class="box"><h2>Waiting, in order</h2>${isWhole ? html`<p class="soft">Each key has a line of its own: choose one above.</p>`
        : html`<${Waiting} name=${name} path=${`${path}/waiting?limit=${PAGE}${which}`} />`}</section></div>
    <p><a href=${`#/executions?action=${part(name)}`}>All executions of ${name}</a> · <a href=${`#/run?action=${part(name)}`}>Run one</a> · <a href=${`#/audit?action=${part(name)}`}>Its audit</a></p>`;
}

function Keys({ name, row, chosen, setQuery }) {
  const { answer } = useLoaded(`actions/${part(name)}/queue-stats`, 5000);
  const keys = answer?.data.keys ?? [];
  return html`<section><h2>Keys <span class="soft">${count(row.keys)} with a line; each may run ${row.key_limit} at once</span></h2>
    <div class="tools">${keys.slice(0, 20).map((line) => html`<button aria-pressed=${String(line.key === chosen)}
      onClick=${() => setQuery(line.key == null ? { keyless: "true", key: "" } : { key: line.key, keyless: "" })}>${line.key ?? "without a key"} <small>${line.active_count} / ${line.queue_length} waiting</small></button>`)}
      <button onClick=${() => setQuery({ key: "", keyless: "" })}>All</button></div></section>`;
}

/** How far each is comes from its own answer: few are shown. */
function Holders({ path }) {
  const { answer, error } = useLoaded(path, 2000);
  if (!answer) return html`<${Failed} error=${error} />`;
  if (!answer.data.length) return html`<${Empty}>No slot is taken.<//>`;
  return html`<${Failed} error=${error} /><div class="scroll"><table class="stack"><thead><tr><th scope="col">Execution</th><th scope="col">Worker</th><th scope="col">For</th><th scope="col">How far</th></tr></thead>
    <tbody>${answer.data.map((held, index) => html`<tr key=${held.execution_id} data-open data-holder=${held.execution_id}>
      <td data-label="Execution"><a href=${to("execution", held.execution_id)}>${held.execution_id}</a> <${State} is=${held.status} /></td>
      <td data-label="Worker">${held.worker ?? "between two attempts"}${held.is_uncertain && html` <${State} is="silent" />`}</td>
      <td data-label="For"><${Ago} at=${held.start_time ?? held.scheduled_at} /></td>
      <td data-label="How far">${index < 8 ? html`<${Far} id=${held.execution_id} />` : ""}</td></tr>`)}</tbody></table></div>
    ${answer.next_cursor && html`<p class="soft">And more.</p>`}`;
}

function Far({ id }) {
  const { answer } = useLoaded(`executions/${id}`, 2000);
  const share = percent(answer?.data.progress);
  if (share == null) return html`<span class="soft">-</span>`;
  return html`<progress max="100" value=${share} aria-label=${`execution ${id}`}></progress> ${Math.round(share)} %`;
}

function Waiting({ name, path }) {
  const [cursors, setCursors] = useState([]);
  const cursor = cursors.at(-1);
  const { answer, error } = useLoaded(cursor ? `${path}&cursor=${part(cursor)}` : path, 2000);
  if (!answer) return html`<${Failed} error=${error} />`;
  if (!answer.data.length && !cursor) return html`<${Empty} command=${`slotline run ${name}`}>Nothing waits. Submit one:<//>`;
  return html`<${Failed} error=${error} /><div class="scroll"><table class="stack"><thead><tr><th scope="col" class="num">Place</th><th scope="col">Execution</th><th scope="col">Waits</th><th scope="col">Starts</th></tr></thead>
    <tbody>${answer.data.map((item) => html`<tr key=${item.execution_id} data-open data-waiting=${item.execution_id}>
      <td data-label="Place" class="num">${count(item.position)}</td>
      <td data-label="Execution"><a href=${to("execution", item.execution_id)}>${item.execution_id}</a>${item.concurrency_key != null && html` <span class="soft">${item.concurrency_key}</span>`}</td>
      <td data-label="Waits"><${Ago} at=${item.enqueued_at} /></td>
      <td data-label="Starts">${item.is_sent_ahead ? "next, at its worker already" : eta(item.eta_low, item.eta_high, now.value)}</td></tr>`)}</tbody></table></div>
    <p class="tools">${cursors.length > 0 && html`<button onClick=${() => setCursors(cursors.slice(0, -1))}>Before</button>`}
      ${answer.next_cursor && html`<button onClick=${() => setCursors([...cursors, answer.next_cursor])}>Behind</button>`}</p>`;
}
