// Requests to the API of this executor. Paths are relative: the page works below any path of a proxy.

import { signal } from "./vendor/signals.js";

const BASE = new URL("../api/v1/", location.href);
const KEY = "slotline-token";

/** Whether the API wants a token that this page does not have: "none", "missing" or "wrong". */
export const tokenNeeded = signal("none");

export function setToken(token) {
  if (token) sessionStorage.setItem(KEY, token);
  else sessionStorage.removeItem(KEY);
  tokenNeeded.value = "none";
}

export const hasToken = () => sessionStorage.getItem(KEY) !== null;

function headers(more) {
  const token = sessionStorage.getItem(KEY);
  return { ...(token ? { authorization: `Bearer ${token}` } : {}), ...more };
}

/** Why a request failed, in words of the API. */
export class Refused extends Error {
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.code = error.code;
  }
}

export async function open(path, init = {}) {
  let response;
  try {
    response = await fetch(new URL(path, BASE), { ...init, headers: headers(init.headers), credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { code: "unreachable", message: "this executor can't be reached" });
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  if (response.status === 401) tokenNeeded.value = hasToken() ? "wrong" : "missing";
  throw new Refused(response.status, body?.error ?? { code: "unknown", message: `HTTP ${response.status}` });
}

/** The whole answer of a GET. */
export const get = async (path, init) => (await open(path, init)).json();

/** Sends a change; the answer's data. */
export async function change(method, path, body) {
  const init = { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body ?? {}) };
  return (await (await open(path, init)).json()).data;
}

/** A change that takes its reason in the query, and no body. */
export async function remove(path, reason) {
  const query = reason ? `?reason=${encodeURIComponent(reason)}` : "";
  return (await (await open(path + query, { method: "DELETE", headers: { "x-slotline": "1" } })).json()).data;
}

export const part = encodeURIComponent;
