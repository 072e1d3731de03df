// One execution: why it waits or how far it is, what happened, what it printed; and lists of executions.

import { useEffect, useReducer, useRef, useState } from "./vendor/hooks.js";
import { html, Ago, State, Empty, Failed, Tabs, useLoaded, ask, to } from "./parts.js";
import { show, listen, came, now } from "./stream.js";
import { change, get, part } from "./api.js";
import { doIt } from "./line.js";
import { clock, count, ENDED, eta, length, ordinal, percent as share, pretty, since } from "./words.js";

/** Lines of output that the page keeps. */
const LOG_MAX = 2000;
const EVENTS_MAX = 500;

/** What is known of one execution, from its events. */
function take(known, event) {
  if (event.number <= known.number) return known;
  const next = { ...known, number: event.number, events: [...known.events, event].slice(-EVENTS_MAX) };
  const { kind } = event;
  if (kind === "log") {
    const lines = event.lines.map((text) => ({ text, at: event.timestamp, stream: event.stream, attempt: event.attempt }));
    next.log = [...known.log, ...lines].slice(-LOG_MAX);
  } else if (kind === "progress") {
    next.progress = { ...known.progress, ...Object.fromEntries(Object.entries(event).filter(([, value]) => value != null)) };
  } else if (kind === "status") {
    next.status = event.new_status;
    next.changes = known.changes + 1;
  } else if (kind === "settled") {
    next.status = event.status;
    next.changes = known.changes + 1;
  }
  return next;
}

const NOTHING = { number: 0, events: [], log: [], progress: null, status: null, changes: 0 };

/** Follows an execution from its beginning; the page's stream brings the rest. */
function useEvents(id) {
  const [known, next] = useReducer(take, NOTHING);
  useEffect(() => {
    show({ executions: { [id]: 0 } });
    const stop = listen((event, data) => {
      if (event === "execution" && String(data.execution_id) === id) {
        came(id, data.number);
        next(data);
      }
    });
    return () => { stop(); show({}); };
  }, [id]);
  return known;
}

const HELD = 3;

/** One sentence: why it is not running, what runs it, or how it ended. */
function Why({ execution, holders }) {
  const { status, waiting, action_ref } = execution;
  const line = html`<a href=${to("line", action_ref)}>${action_ref}</a>`;
  if (status === "queued" && waiting) {
    const { position, held_by, reason, until } = waiting;
    const links = held_by.slice(0, HELD).map((id, index) => {
      const held = holders[id];
      return html`${index > 0 && ", "}<a href=${to("execution", id)}>${id}</a>${held?.worker && html` on ${held.worker}`}${held?.start_time && html` for ${length(since(held.start_time, now.value))}`}`;
    });
    const more = held_by.length > HELD && ` and ${count(held_by.length - HELD)} more`;
    return html`<p class="why" data-why>Waits: ${ordinal(position)} of ${line}. ${{
      limit: "Every slot is taken.", key_limit: `Every slot of its key is taken.`, no_worker: "No live worker serves it.",
      capacity: "Slots are free, and no worker has room.", paused: "The line is paused.",
      backoff: `Its last attempt failed; the next try is ${until ? `in ${length(Math.max(0, -since(until, now.value)))}` : "due"}.`,
    }[reason]}${held_by.length > 0 && html` Held by ${links}${more}.`} ${["limit", "key_limit"].includes(reason) && html`<span data-eta>Start: ${eta(waiting.eta_low, waiting.eta_high, now.value)}.</span>`}</p>`;
  }
  if (status === "queued") return html`<p class="why" data-why>Waits in ${line}; no leader says why now.</p>`;
  if (status === "scheduled") return html`<p class="why" data-why>Is on its way to ${execution.worker}.</p>`;
  if (status === "running") return html`<p class="why" data-why>Runs on ${execution.worker} for ${length(since(execution.start_time, now.value))}, as attempt ${execution.attempt}.</p>`;
  if (status === "cancelling") return html`<p class="why" data-why>Is being cancelled on ${execution.worker}.</p>`;
  const took = execution.start_time && execution.end_time ? ` after ${length((Date.parse(execution.end_time) - Date.parse(execution.start_time)) / 1000)}` : "";
  return html`<p class="why" data-why>${{ completed: "Completed", failed: "Failed", timeout: "Timed out", cancelled: "Was cancelled" }[status]}${took}${execution.error ? html`: ${execution.error.message}` : "."}</p>`;
}

function Progress({ known, execution }) {
  const now = known.progress ?? execution.progress;
  if (!now) return null;
  const percent = share(now);
  return html`<section aria-label="Progress"><progress data-bar max="100" value=${percent ?? undefined} aria-label="Progress"></progress>
    <p>${percent != null && html`<b data-percent>${Math.round(percent)} %</b> `}${now.step && `step ${now.step[0]} of ${now.step[1]} `}${now.phase && html`<span>${now.phase} </span>`}
      ${now.progress && `${count(now.progress[0])}${now.progress[1] != null ? ` of ${count(now.progress[1])}` : ""} ${now.unit ?? ""} `}${now.message && html`<span data-message>${now.message}</span>`}</p></section>`;
}

const LINK = /(https?:\/\/[^\s<>"']+)/;
const Linked = ({ text }) => text.split(LINK).map((piece, index) => index % 2 ? html`<a href=${piece} rel="noopener noreferrer">${piece}</a>` : piece);

function Log({ lines }) {
  const [isWrapped, wrap] = useState(true), [isFollowed, follow] = useState(true), [isTimed, time] = useState(false);
  const box = useRef(null);
  useEffect(() => { if (isFollowed && box.current) box.current.scrollTop = box.current.scrollHeight; }, [lines, isFollowed]);
  if (!lines.length) return html`<${Empty}>It has printed nothing.<//>`;
  const text = () => lines.map((line) => line.text).join("\n");
  const save = () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text()], { type: "text/plain" }));
    link.download = "log.txt";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const flag = (name, value, set) => html`<label class="flat"><input type="checkbox" checked=${value} onChange=${(event) => set(event.target.checked)} />${name}</label>`;
  return html`<div class="tools">${flag("follow", isFollowed, follow)}${flag("wrap", isWrapped, wrap)}${flag("times", isTimed, time)}
    <button onClick=${() => navigator.clipboard?.writeText(text())}>Copy</button><button onClick=${save}>Download</button>
    ${lines.length === LOG_MAX && html`<span class="soft">the newest ${count(LOG_MAX)} lines</span>`}</div>
    <pre ref=${box} class=${`log ${isWrapped ? "wrapped" : ""}`} data-log tabindex="0">${lines.map((line) => html`<span class=${line.stream}>${isTimed && `${clock(line.at)} `}<${Linked} text=${line.text} />${"\n"}</span>`)}</pre>`;
}

const TELL = {
  status: (event) => `${event.previous_status} → ${event.new_status}${event.worker ? ` on ${event.worker}` : ""}`,
  started: (event) => `attempt ${event.attempt} began`,
  progress: (event) => `${event.percent != null ? `${Math.round(event.percent)} % ` : ""}${event.message ?? event.phase ?? ""}`,
  log: (event) => `${event.stream}: ${event.lines.length} lines`,
  gap: (event) => `${count(event.count)} events are left out (${event.reason})`,
  finished: (event) => `attempt ${event.attempt} ended${event.outcome ? `: ${event.outcome}` : ""}${event.return_code != null ? `, exit status ${event.return_code}` : ""}${event.message ? `: ${event.message}` : ""}`,
  settled: (event) => event.status,
};

function Timeline({ events }) {
  const moves = events.filter((event) => !["log", "progress"].includes(event.kind));
  if (!moves.length) return html`<p class="soft">Nothing happened yet.</p>`;
  return html`<ol class="timeline">${moves.map((event) => html`<li key=${event.number}><time datetime=${event.timestamp} title=${new Date(event.timestamp).toLocaleString()}>${clock(event.timestamp)}</time><span>${TELL[event.kind]?.(event) ?? event.kind}</span></li>`)}</ol>`;
}

const TABS = [["log", "Log"], ["events", "Events"], ["parameters", "Parameters"], ["result", "Result"], ["raw", "Raw"]];

export function Execution({ rest: [id], query, setQuery }) {
  const known = useEvents(id);
  const [execution, setExecution] = useState(null), [error, setError] = useState(null), [holders, setHolders] = useState({});
  const status = known.status ?? execution?.status;
  const isOver = ENDED.includes(status);
  const load = async () => {
    try {
      const { data } = await get(`executions/${part(id)}`);
      setExecution(data);
      setError(null);
      const held = data.waiting?.held_by.slice(0, HELD) ?? [];
      if (held.length) {
        const answers = await Promise.all(held.map((id) => get(`executions/${id}`).catch(() => null)));
        setHolders(Object.fromEntries(answers.filter(Boolean).map(({ data }) => [data.execution_id, data])));
      }
    } catch (failure) { setError(failure); }
  };
  useEffect(() => { load(); }, [id, known.changes]);
  useEffect(() => {
    if (isOver || execution?.status !== "queued") return;
    const timer = setInterval(load, 2000);
    return () => clearInterval(timer);
  }, [id, isOver, execution?.status]);
  if (!execution) return html`<h1>Execution ${id}</h1><${Failed} error=${error} />${error?.status === 404 && html`<p class="soft">It never was, or its time in the history is over.</p>`}`;
  const tab = query.get("tab") ?? "log";
  const cancel = async () => {
    const answer = await ask(`Cancel execution ${id}`, [{ name: "reason", label: "Why (for the audit)" }], "Cancel it",
      status === "queued" ? "It ends at once." : "Its command gets SIGTERM, and SIGKILL after its grace.");
    if (answer && await doIt(`execution ${id} is being cancelled`, () => change("POST", `executions/${part(id)}/cancel`, answer.reason ? { reason: answer.reason } : {}))) load();
  };
  const again = `#/run?action=${part(execution.action_ref)}&parameters=${part(JSON.stringify(execution.parameters))}`;
  return html`<p><a href=${to("line", execution.action_ref)}>${execution.action_ref}</a></p>
    <h1>Execution ${execution.execution_id} <${State} is=${status} /></h1><${Failed} error=${error} />
    <${Why} execution=${{ ...execution, status }} holders=${holders} />
    ${!isOver && html`<${Progress} known=${known} execution=${execution} />`}
    <p class="tools">${!isOver && html`<button class="bad" data-key="c" onClick=${cancel}>Cancel…</button>`}<a href=${again}>Run again with changes</a></p>
    <div class="cols"><section class="box"><h2>What happened</h2><${Timeline} events=${known.events} /></section>
      <section class="box"><h2>About it</h2><dl class="pair">
        <dt>Enqueued</dt><dd>${new Date(execution.enqueued_at).toLocaleString()}</dd>
        ${execution.concurrency_key != null && html`<dt>Key</dt><dd>${execution.concurrency_key}</dd>`}
        <dt>Attempt</dt><dd>${execution.attempt}</dd><dt>Worker</dt><dd>${execution.worker ?? "-"}</dd>
        <dt>Message</dt><dd class="mono">${execution.message_id ?? "-"}</dd><dt>Correlation</dt><dd class="mono">${execution.correlation_id ?? "-"}</dd>
        <dt>Source</dt><dd>${execution.source ?? "-"}</dd><dt>In a terminal</dt><dd><code>slotline watch ${execution.execution_id}</code></dd></dl></section></div>
    <${Tabs} of=${TABS} chosen=${tab} choose=${(next) => setQuery({ tab: next })} />
    <div role="tabpanel">${{
      log: () => html`<${Log} lines=${known.log} />`, events: () => html`<pre class="text" tabindex="0">${known.events.map((event) => JSON.stringify(event)).join("\n")}</pre>`,
      parameters: () => html`<pre class="text" data-parameters tabindex="0">${pretty(execution.parameters)}</pre>`,
      result: () => execution.error ? html`<pre class="text" tabindex="0">${pretty(execution.error)}</pre>` : html`<pre class="text" tabindex="0">${execution.result == null ? "There is none." : pretty(execution.result)}</pre>`,
      raw: () => html`<pre class="text" tabindex="0">${pretty(execution)}</pre>`,
    }[tab]?.()}</div>`;
}

const STATUSES = ["queued", "scheduled", "running", "cancelling", ...ENDED];

export function Executions({ query, setQuery }) {
  const action = query.get("action") ?? "", status = query.get("status") ?? "", key = query.get("key") ?? "", cursor = query.get("cursor") ?? "";
  const [search, setSearch] = useState(action);
  useEffect(() => show({}), []);
  const params = new URLSearchParams({ limit: 50, ...(action && { action }), ...(status && { status }), ...(key && { key }), ...(cursor && { cursor }) });
  const { answer, error } = useLoaded(`executions?${params}`, cursor ? 0 : 3000);
  const find = (event) => {
    event.preventDefault();
    if (/^\d+$/.test(search.trim())) location.hash = `#/execution/${search.trim()}`;
    else setQuery({ action: search.trim(), cursor: "" });
  };
  return html`<h1>Executions</h1>
    <form class="tools" onSubmit=${find}><input data-search type="search" placeholder="Action or number" aria-label="Action or number" value=${search} onInput=${(event) => setSearch(event.target.value)} />
      <label class="flat">Status <select value=${status} onChange=${(event) => setQuery({ status: event.target.value, cursor: "" })}><option value="">all</option>${STATUSES.map((name) => html`<option value=${name}>${name}</option>`)}</select></label><button>Find</button></form>
    <${Failed} error=${error} />
    ${answer?.data.length === 0 && html`<${Empty} command=${`slotline run ${action || "ACTION"}`}>There is none${action || status ? " like that" : " yet"}. Submit one:<//>`}
    ${answer?.data.length > 0 && html`<div class="scroll"><table class="stack"><thead><tr><th scope="col">Number</th><th scope="col">Action</th><th scope="col">Status</th><th scope="col">Enqueued</th><th scope="col">Took</th><th scope="col">Worker</th></tr></thead>
      <tbody>${answer.data.map((row) => html`<tr key=${row.execution_id} data-open><td data-label="Number"><a href=${to("execution", row.execution_id)}>${row.execution_id}</a></td>
        <td data-label="Action"><a href=${to("line", row.action_ref)}>${row.action_ref}</a>${row.concurrency_key != null && html` <span class="soft">${row.concurrency_key}</span>`}</td>
        <td data-label="Status"><${State} is=${row.status} /></td><td data-label="Enqueued"><${Ago} at=${row.enqueued_at} /> ago</td>
        <td data-label="Took">${row.start_time && row.end_time ? length((Date.parse(row.end_time) - Date.parse(row.start_time)) / 1000) : "-"}</td><td data-label="Worker">${row.worker ?? "-"}</td></tr>`)}</tbody></table></div>
      <div class="tools">${cursor && html`<button onClick=${() => history.back()}>Back</button>`}${answer.next_cursor && html`<a href=${`#/executions?${new URLSearchParams({ action, status, key, cursor: answer.next_cursor })}`}>Older</a>`}</div>`}`;
}
