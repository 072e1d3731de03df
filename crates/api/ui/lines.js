// All lines: how many wait, what holds the slots, and when each is empty.

import { useEffect, useState } from "./vendor/hooks.js";
import { html, Ago, State, Slots, Spark, Empty, Failed, useLoaded, to } from "./parts.js";
import { totals, lists, show, now } from "./stream.js";
import { part } from "./api.js";
import { count, drain, length, since } from "./words.js";

const PAGE = 100;
const SORTS = [["name", "Name"], ["waiting", "Waiting"], ["running", "Running"], ["oldest", "Oldest"], ["drain", "Empty"]];
const STATES = ["waiting", "running", "paused", "stuck", "idle"];

export function Facts() {
  const sum = totals.value;
  if (!sum) return html`<dl class="facts"><div><dt>Lines</dt><dd>-</dd></div></dl>`;
  const { workers, rates } = sum;
  return html`<dl class="facts">
    <div><dt>Waiting</dt><dd data-fact="waiting">${count(sum.waiting)}</dd></div>
    <div><dt>Running</dt><dd>${count(sum.running)} <small>of ${sum.slots == null ? "no limit" : count(sum.slots)}</small></dd></div>
    <div><dt>Oldest</dt><dd>${sum.oldest_enqueued_at ? length(since(sum.oldest_enqueued_at, now.value)) : "-"}</dd></div>
    <div><dt>Ended a minute</dt><dd>${rates ? count(Math.round(rates.completed_per_minute)) : "-"} <small>${rates ? `${count(Math.round(rates.failed_per_minute))} failed` : ""}</small></dd></div>
    <div><dt>Workers</dt><dd>${count(workers.ready)} <small>room for ${count(workers.capacity)}</small></dd></div></dl>`;
}

/** Only what needs a person. */
export function Trouble() {
  const sum = totals.value;
  if (!sum) return null;
  return html`
    ${sum.stuck > 0 && html`<p class="strip">${sum.stuck === 1 ? "One line is stuck" : `${count(sum.stuck)} lines are stuck`}: slots are free, and no worker serves ${sum.stuck === 1 ? "it" : "them"}. <a href="#/lines?state=stuck">Show</a></p>`}
    ${sum.workers.silent > 0 && html`<p class="strip warn">${count(sum.workers.silent)} of the workers ${sum.workers.silent === 1 ? "is" : "are"} silent. <a href="#/workers">Show</a></p>`}`;
}

export function Lines({ query, setQuery }) {
  const sort = query.get("sort") ?? "waiting", state = query.get("state") ?? "", prefix = query.get("prefix") ?? "";
  const cursor = query.get("cursor") ?? "";
  const [search, setSearch] = useState(prefix);
  const key = `${sort}:${state}:${PAGE}:${prefix}`;
  useEffect(() => { show({ lists: cursor ? [] : [key] }); return () => show({}); }, [key, cursor]);
  useEffect(() => { const timer = setTimeout(() => search !== prefix && setQuery({ prefix: search, cursor: "" }), 250); return () => clearTimeout(timer); }, [search]);
  const params = `lines?sort=${sort}&limit=${PAGE}${state && `&state=${state}`}${prefix && `&prefix=${part(prefix)}`}`;
  // Only the first page is live; a later one is read again now and then.
  const page = useLoaded(cursor ? `${params}&cursor=${part(cursor)}` : params, cursor ? 2000 : 0);
  const live = cursor ? null : lists.value[key];
  const rows = live ? live.order.map((name) => live.rows[name]) : page.answer?.data;
  const next = live ? live.next : page.answer?.next_cursor;
  if (!live && page.answer && !totals.value) totals.value = page.answer.totals;
  const isFiltered = state || prefix;
  return html`<h1>Lines</h1><${Trouble} /><${Facts} />
    <div class="tools">
      <input data-search type="search" placeholder="Name begins with" aria-label="Name begins with" value=${search} onInput=${(event) => setSearch(event.target.value)} />
      <label class="flat">State <select value=${state} onChange=${(event) => setQuery({ state: event.target.value, cursor: "" })}>
        <option value="">all</option>${STATES.map((name) => html`<option value=${name}>${name}</option>`)}</select></label>
      <span class="soft">${totals.value ? `${count(totals.value.lines)} ${totals.value.lines === 1 ? "action" : "actions"}` : ""}</span></div>
    ${!live && html`<${Failed} error=${page.error} />`}
    ${rows && rows.length === 0 && (isFiltered
      ? html`<${Empty}>No line is like that. <button onClick=${() => { setSearch(""); setQuery({ state: "", prefix: "", cursor: "" }); }}>Show all</button><//>`
      : html`<${Empty} command="slotline apply actions.toml">No action is declared yet. Declare the first one:<//>`)}
    ${rows && rows.length > 0 && html`<div class="scroll"><table class="stack"><thead><tr>
      ${SORTS.slice(0, 1).map((item) => html`<${Sort} of=${item} sort=${sort} setQuery=${setQuery} />`)}<th scope="col">Last minutes</th>
      ${SORTS.slice(1).map((item) => html`<${Sort} of=${item} sort=${sort} setQuery=${setQuery} />`)}<th scope="col">State</th></tr></thead>
      <tbody>${rows.map((row) => html`<${Row} key=${row.action_ref} row=${row} />`)}</tbody></table></div>
      <div class="tools">${cursor && html`<button onClick=${() => history.back()}>Back</button>`}
        ${next && html`<a href=${`#/lines?${new URLSearchParams({ sort, state, prefix, cursor: next })}`}>More lines</a>`}</div>`}`;
}

const Sort = ({ of: [name, title], sort, setQuery }) => html`<th scope="col" class=${name === "waiting" ? "num" : ""} aria-sort=${name === sort ? (name === "name" ? "ascending" : "descending") : undefined}>
  <button onClick=${() => setQuery({ sort: name, cursor: "" })}>${title}${name === sort ? (name === "name" ? " ↑" : " ↓") : ""}</button></th>`;

function Row({ row }) {
  return html`<tr data-open data-line=${row.action_ref}>
    <td data-label="Name"><a href=${to("line", row.action_ref)}>${row.action_ref}</a></td>
    <td data-label="Last minutes"><${Spark} values=${row.history} /></td>
    <td data-label="Waiting" class="num">${count(row.waiting)}</td>
    <td data-label="Running"><${Slots} running=${row.running} limit=${row.limit} /></td>
    <td data-label="Oldest"><${Ago} at=${row.oldest_enqueued_at} /></td>
    <td data-label="Empty">${drain(row, now.value)}</td>
    <td data-label="State"><${State} is=${row.state} />${row.limit_override && html` <span class="soft">limit overridden</span>`}</td></tr>`;
}
