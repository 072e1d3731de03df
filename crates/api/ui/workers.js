// The workers: which are there, what they run, and what they can run.

import { useEffect } from "./vendor/hooks.js";
import { html, Ago, State, Slots, Empty, Failed, useLoaded, to } from "./parts.js";
import { show } from "./stream.js";

const ACTIONS_SHOWN = 6, HOLDING_SHOWN = 8;

export function Workers() {
  useEffect(() => show({}), []);
  const { answer, error } = useLoaded("workers?limit=200", 2000);
  return html`<h1>Workers</h1><${Failed} error=${error} />
    ${answer?.data.length === 0 && html`<${Empty} command="slotline worker --actions actions.toml">No worker is there, so nothing runs. Start one:<//>`}
    ${answer?.data.length > 0 && html`<div class="scroll"><table class="stack"><thead><tr><th scope="col">Name</th><th scope="col">State</th><th scope="col">Running</th><th scope="col">Holds</th><th scope="col">Heard</th><th scope="col">Serves</th></tr></thead>
      <tbody>${answer.data.map((worker) => html`<tr key=${worker.incarnation} data-worker=${worker.worker}>
        <td data-label="Name"><b>${worker.worker}</b><br /><small class="soft mono">${worker.incarnation.slice(0, 8)}</small></td>
        <td data-label="State"><${State} is=${worker.silent ? "silent" : worker.draining ? "draining" : "ready"} />${worker.clock_ahead_seconds != null && html` <span class="soft">its clock is off by ${Math.round(worker.clock_ahead_seconds)} s</span>`}</td>
        <td data-label="Running"><${Slots} running=${worker.active_count} limit=${worker.capacity} /></td>
        <td data-label="Holds">${worker.holding.slice(0, HOLDING_SHOWN).map((id, index) => html`${index > 0 && ", "}<a href=${to("execution", id)}>${id}</a>`)}${worker.holding.length > HOLDING_SHOWN && ` and ${worker.holding.length - HOLDING_SHOWN} more`}</td>
        <td data-label="Heard"><${Ago} at=${worker.last_heartbeat_at} /> ago</td>
        <td data-label="Serves" class="wrap">${worker.actions.slice(0, ACTIONS_SHOWN).map((served, index) => html`${index > 0 && ", "}<a href=${to("line", served.ref)}>${served.ref}</a>`)}${worker.actions.length > ACTIONS_SHOWN && ` and ${worker.actions.length - ACTIONS_SHOWN} more`}</td></tr>`)}</tbody></table></div>`}`;
}
