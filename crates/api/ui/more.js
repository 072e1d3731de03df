// Dead letters, the audit, and a form to run an action.

import { useEffect, useState } from "./vendor/hooks.js";
import { html, Ago, Empty, Failed, useLoaded, ask, say } from "./parts.js";
import { show } from "./stream.js";
import { change, open, remove, part } from "./api.js";
import { doIt } from "./line.js";
import { pretty } from "./words.js";

export function Dead({ query, setQuery }) {
  useEffect(() => show({}), []);
  const chosen = query.get("id");
  const list = useLoaded("dead?limit=100", 5000);
  const one = useLoaded(chosen && `dead/${part(chosen)}`, 0);
  const act = async (id, isReplay) => {
    const answer = await ask(isReplay ? `Replay ${id}` : `Drop ${id}`, [{ name: "reason", label: "Why (for the audit)" }], isReplay ? "Replay" : "Drop",
      isReplay ? "It goes back to where it came from." : "It is gone for good.");
    if (!answer) return;
    const done = isReplay ? () => change("POST", `dead/${part(id)}/replay`, answer.reason ? { reason: answer.reason } : {}) : () => remove(`dead/${part(id)}`, answer.reason);
    if (await doIt(isReplay ? "replayed" : "dropped", done)) { setQuery({ id: "" }); list.again(); }
  };
  return html`<h1>Dead letters</h1><${Failed} error=${list.error} />
    ${list.answer?.data.length === 0 && html`<${Empty}>There is none: every message could be read.<//>`}
    ${list.answer?.data.length > 0 && html`<div class="scroll"><table class="stack"><thead><tr><th scope="col">Reason</th><th scope="col">Detail</th><th scope="col">Message</th><th scope="col">Since</th><th scope="col">What to do</th></tr></thead>
      <tbody>${list.answer.data.map((letter) => html`<tr key=${letter.id}><td data-label="Reason">${letter.reason}</td><td data-label="Detail" class="wrap">${letter.detail}</td><td data-label="Message" class="mono">${letter.message_id ?? "-"}</td>
        <td data-label="Since"><${Ago} at=${letter.dead_at} /></td><td data-label="What to do"><span class="tools"><button onClick=${() => setQuery({ id: letter.id })}>Show</button><button onClick=${() => act(letter.id, true)}>Replay…</button><button class="bad" onClick=${() => act(letter.id, false)}>Drop…</button></span></td></tr>`)}</tbody></table></div>`}
    ${one.answer && html`<h2>${chosen}</h2><pre class="text" tabindex="0">${one.answer.data.body}</pre>`}<${Failed} error=${one.error} />`;
}

const shown = (value) => (value === undefined || value === null ? "none" : typeof value === "string" ? value : JSON.stringify(value));

export function Audit({ query, setQuery }) {
  useEffect(() => show({}), []);
  const action = query.get("action") ?? "", actor = query.get("actor") ?? "", cursor = query.get("cursor") ?? "";
  const params = new URLSearchParams({ limit: 50, ...(action && { action }), ...(actor && { actor }), ...(cursor && { cursor }) });
  const { answer, error } = useLoaded(`audit?${params}`, cursor ? 0 : 3000);
  const find = (event) => { event.preventDefault(); const form = new FormData(event.target); setQuery({ action: form.get("action"), actor: form.get("actor"), cursor: "" }); };
  return html`<h1>Audit</h1>
    <form class="tools" onSubmit=${find}><input data-search name="action" placeholder="Action" aria-label="Action" value=${action} /><input name="actor" placeholder="By" aria-label="By" value=${actor} /><button>Find</button></form>
    <${Failed} error=${error} />${answer?.data.length === 0 && html`<${Empty}>Nothing was changed.<//>`}
    ${answer?.data.length > 0 && html`<div class="scroll"><table class="stack"><thead><tr><th scope="col">When</th><th scope="col">By</th><th scope="col">What</th><th scope="col">Of</th><th scope="col">From, to</th><th scope="col">Why</th></tr></thead>
      <tbody>${answer.data.map((entry) => html`<tr key=${entry.id} data-audit=${entry.changed}><td data-label="When">${new Date(entry.at).toLocaleString()}</td><td data-label="By">${entry.actor}${entry.via && html` <span class="soft">${entry.via}</span>`}</td><td data-label="What">${entry.changed}</td>
        <td data-label="Of">${entry.action_ref ?? ""} ${entry.execution_id != null && html`<a href=${`#/execution/${entry.execution_id}`}>${entry.execution_id}</a>`} ${entry.dead_letter ?? ""}</td>
        <td data-label="From, to" class="wrap">${(entry.changes ?? []).map((item) => html`<div><code>${item.member}</code> ${shown(item.old)} → ${shown(item.new)}</div>`)}</td><td data-label="Why" class="wrap">${entry.reason ?? ""}</td></tr>`)}</tbody></table></div>
      <div class="tools">${answer.next_cursor && html`<a href=${`#/audit?${new URLSearchParams({ action, actor, cursor: answer.next_cursor })}`}>Older</a>`}</div>`}`;
}

/** A first guess at parameters, from the schema of the action. */
function example(schema, depth = 0) {
  if (!schema || depth > 4) return null;
  if ("default" in schema) return schema.default;
  if (schema.enum) return schema.enum[0];
  if (schema.properties) return Object.fromEntries(Object.entries(schema.properties).filter(([name]) => schema.required?.includes(name)).map(([name, inner]) => [name, example(inner, depth + 1)]));
  return { object: {}, array: [], string: "", number: 0, integer: 0, boolean: false }[schema.type] ?? null;
}

export function Run({ query, setQuery }) {
  useEffect(() => show({}), []);
  const action = query.get("action") ?? "";
  const { answer, error } = useLoaded(action && `actions/${part(action)}`, 0);
  const [text, setText] = useState(null), [key, setKey] = useState("");
  const schema = answer?.data.policy.schema;
  const given = query.get("parameters");
  const parameters = text ?? (given ? pretty(JSON.parse(given)) : pretty(schema ? example(schema) ?? {} : {}));
  let problem = "";
  try { JSON.parse(parameters); } catch (failure) { problem = failure.message; }
  const submit = async (event) => {
    event.preventDefault();
    try {
      const body = { action_ref: action, parameters: JSON.parse(parameters), ...(key && { concurrency_key: key }) };
      const response = await open("executions", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
      const { data } = await response.json();
      if (data.execution_id) location.hash = `#/execution/${data.execution_id}`;
      else say(`no leader answered yet: it waits on the broker as ${data.message_id}`);
    } catch (failure) { say(failure.message, ""); }
  };
  const choose = (event) => { event.preventDefault(); setText(null); setQuery({ action: new FormData(event.target).get("action").trim(), parameters: "" }); };
  return html`<h1>Run</h1><form class="tools" onSubmit=${choose}><label>Action<input data-search name="action" value=${action} required /></label><button>Choose</button></form><${Failed} error=${error} />
    ${answer && html`<form class="box" onSubmit=${submit}>
      <label>Parameters, as JSON<textarea class="mono" spellcheck="false" value=${parameters} onInput=${(event) => setText(event.target.value)} aria-invalid=${String(!!problem)}></textarea></label>
      ${problem && html`<p class="strip" role="alert">${problem}</p>`}
      ${answer.data.policy.key_limit != null && html`<p><label>Key (empty: from the parameters)<input value=${key} onInput=${(event) => setKey(event.target.value)} /></label></p>`}
      <p><button class="main" disabled=${!!problem}>Submit</button></p>
      <p class="soft">In a terminal: <code>slotline run ${action} --params '${problem ? "{}" : JSON.stringify(JSON.parse(parameters))}'</code></p>
      ${schema && html`<details><summary>The schema of its parameters</summary><pre class="text">${pretty(schema)}</pre></details>`}</form>`}`;
}
