// Parts that several screens are made of. Texts of others are always given to preact as text.

import { h } from "./vendor/preact.js";
import { useEffect, useRef, useState } from "./vendor/hooks.js";
import { signal } from "./vendor/signals.js";
import htm from "./vendor/htm.js";
import { length, since } from "./words.js";
import { now } from "./stream.js";
import { get } from "./api.js";

export const html = htm.bind(h);

/** What is told to the person for a while. */
export const toast = signal(null);
let toastTimer = 0;
export function say(text, kind = "good") {
  toast.value = { text, kind };
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => (toast.value = null), 6000);
}

export const Ago = ({ at, empty = "-" }) =>
  at ? html`<time datetime=${at} title=${new Date(at).toLocaleString()}>${length(since(at, now.value))}</time>` : empty;

export const State = ({ is }) => html`<span class=${`state ${is}`}>${is}</span>`;

export function Slots({ running, limit }) {
  const share = limit ? Math.min(1, running / limit) : running ? 1 : 0;
  const width = useRef(null);
  // The policy of the page forbids styles in its text; what a script sets is none.
  useEffect(() => { width.current.style.width = `${share * 100}%`; }, [share]);
  return html`<span class="bar"><i ref=${width}></i><b>${running} / ${limit ?? "no limit"}</b></span>`;
}

export function Spark({ values }) {
  if (!values || values.length < 2) return html`<span class="soft">-</span>`;
  const top = Math.max(1, ...values), step = 100 / (values.length - 1);
  const points = values.map((value, index) => `${(index * step).toFixed(1)},${(21 - (value / top) * 18).toFixed(1)}`);
  return html`<svg class="spark" viewBox="0 0 100 24" preserveAspectRatio="none" role="img"
    aria-label=${`waiting over the last ${length(values.length * 10)}: from ${values[0]} to ${values.at(-1)}`}>
    <polyline points=${points.join(" ")} /></svg>`;
}

/** What an empty list says: why, and the next command. */
export const Empty = ({ children, command }) =>
  html`<div class="empty"><p>${children}</p>${command && html`<p><code>${command}</code></p>`}</div>`;

/** Loads when the path changes, and again every so many ms; `again` loads now. */
export function useLoaded(path, every) {
  const [loaded, set] = useState({ path: null, answer: null, error: null });
  const again = useRef(() => {});
  useEffect(() => {
    if (!path) return;
    const stop = new AbortController();
    let timer = 0;
    const load = async () => {
      clearTimeout(timer);
      try {
        const answer = await get(path, { signal: stop.signal });
        set({ path, answer, error: null });
      } catch (error) {
        if (error.name === "AbortError") return;
        set((before) => ({ path, answer: before.path === path ? before.answer : null, error }));
      }
      if (every && !stop.signal.aborted) timer = setTimeout(load, every);
    };
    again.current = load;
    load();
    return () => { stop.abort(); clearTimeout(timer); };
  }, [path, every]);
  const isThere = loaded.path === path;
  return { answer: isThere ? loaded.answer : null, error: isThere ? loaded.error : null, again: () => again.current() };
}

export const Failed = ({ error }) => error && html`<p class="strip" role="alert">${error.message}</p>`;

/** A dialog with a form; `ask` opens it and gives the answer, or null. */
export const question = signal(null);
export const ask = (title, fields, action, text) =>
  new Promise((done) => (question.value = { title, fields, action, text, done }));

export function Dialog() {
  const asked = question.value, box = useRef(null);
  useEffect(() => { if (asked && !box.current.open) box.current.showModal(); }, [asked]);
  if (!asked) return null;
  const close = (answer) => { box.current?.close(); question.value = null; asked.done(answer); };
  const submit = (event) => { event.preventDefault(); close(Object.fromEntries(new FormData(event.target))); };
  return html`<dialog ref=${box} aria-labelledby="asked" onCancel=${(event) => { event.preventDefault(); close(null); }}>
    <form onSubmit=${submit}>
      <h2 id="asked">${asked.title}</h2>
      ${asked.text && html`<p>${asked.text}</p>`}
      ${asked.fields.map((field) => html`<label>${field.label}
        ${field.options
          ? html`<select name=${field.name}>${field.options.map(([value, name]) => html`<option value=${value} selected=${value === field.value}>${name}</option>`)}</select>`
          : html`<input name=${field.name} type=${field.type ?? "text"} value=${field.value ?? ""} min=${field.min}
              required=${field.required} pattern=${field.pattern} placeholder=${field.placeholder ?? ""} autocomplete="off" maxlength="1000" />`}
      </label>`)}
      <div class="row"><button type="button" onClick=${() => close(null)}>Leave it</button><button class="main">${asked.action}</button></div>
    </form></dialog>`;
}

export function Tabs({ of, chosen, choose }) {
  const move = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = of[(of.findIndex(([name]) => name === chosen) + step + of.length) % of.length][0];
    choose(next);
    event.currentTarget.querySelector(`[data-tab="${next}"]`)?.focus();
  };
  return html`<div role="tablist" onKeyDown=${move}>${of.map(([name, title]) => html`<button role="tab" data-tab=${name}
    aria-selected=${String(name === chosen)} tabindex=${name === chosen ? 0 : -1} onClick=${() => choose(name)}>${title}</button>`)}</div>`;
}

export const to = (...parts) => `#/${parts.map(encodeURIComponent).join("/")}`;
