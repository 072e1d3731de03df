// Numbers, times and states as people read them.

const whole = new Intl.NumberFormat("en");

export const count = (n) => (n == null ? "-" : whole.format(n));

/** A length of time, in its two largest units. */
export function length(seconds) {
  if (seconds == null || !isFinite(seconds)) return "-";
  if (seconds < 1) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  let rest = seconds < 10 ? Math.round(seconds * 10) / 10 : Math.round(seconds);
  if (rest < 60) return `${rest} s`;
  const at = units.findIndex(([size]) => rest >= size);
  const [size, name] = units[at];
  const [small, smaller] = units[at + 1] ?? [1, "s"];
  const more = Math.floor((rest % size) / small);
  return `${Math.floor(rest / size)} ${name}${more ? ` ${more} ${smaller}` : ""}`;
}

export const since = (at, now) => (at ? (now - Date.parse(at)) / 1000 : null);

export const clock = (at) => new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** "about 4-7 min" until a start, from its two ends. */
export function eta(low, high, now) {
  if (!low || !high) return "no estimate yet";
  const from = Math.max(0, (Date.parse(low) - now) / 1000), to = Math.max(0, (Date.parse(high) - now) / 1000);
  if (to < 1) return "at any moment";
  // In the unit of the later end: the seconds of a quarter of an hour say nothing.
  const [size, name] = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]].find(([size]) => to >= 2 * size) ?? [1, "s"];
  const [a, b] = [Math.floor(from / size), Math.ceil(to / size)];
  return a === b ? `in about ${b} ${name}` : `in about ${a}-${b} ${name}`;
}

export function ordinal(n) {
  const tail = n % 100 >= 11 && n % 100 <= 13 ? "th" : ["th", "st", "nd", "rd"][n % 10] ?? "th";
  return `${count(n)}${tail}`;
}

/** When a line is empty, if it goes on like this. */
export function drain(row, now) {
  const rates = row.rates;
  if (!row.waiting || !rates) return "-";
  if (rates.is_growing) return "growing";
  if (rates.drain_seconds == null) return "-";
  const at = new Date(now + rates.drain_seconds * 1000);
  return rates.drain_seconds < 20 * 3600
    ? `empty at ${at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}`
    : `in ${length(rates.drain_seconds)}`;
}

/** How far something is, from its newest report: 0 to 100, or null. */
export function percent(progress) {
  if (!progress) return null;
  const [done, total] = progress.progress?.[1] ? progress.progress : progress.step ?? [0, 0];
  return progress.percent ?? (total ? Math.min(100, (done / total) * 100) : null);
}

export const ENDED = ["completed", "failed", "timeout", "cancelled"];

export const pretty = (value) => (value === undefined ? "" : JSON.stringify(value, null, 2));
