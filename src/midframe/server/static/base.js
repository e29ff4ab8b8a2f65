// Talking to /api/v1, making elements, notices. The page uses no other address.

import { errorText, t } from "./words.js";

export const API = "/api/v1";
const UNDO_SECONDS = 8;

export class ApiError extends Error {
  constructor(status, error) { super(error.message); this.status = status; this.code = error.code; }
}

export async function call(method, path, body, extra = {}) {
  const init = { method, ...extra };
  if (body instanceof Blob) init.body = body;
  else if (body !== undefined) { init.body = JSON.stringify(body); init.headers = { "content-type": "application/json" }; }
  const answer = await fetch(API + path, init);
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  let error = { code: "http", message: `${answer.status} ${answer.statusText}` };
  try { error = (await answer.json()).error ?? error; } catch { /* not JSON: keep the status */ }
  throw new ApiError(answer.status, error);
}

// el("button", {class: "main", onclick: f}, "text", child): properties in lower case with "on" are listeners
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (["value", "checked", "muted", "disabled", "hidden", "loop"].includes(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const $ = (id) => document.getElementById(id);

export function store(key, value) { try { if (value === null) localStorage.removeItem(key); else localStorage.setItem(key, value); } catch { /* private window: the choice lasts as long as the page */ } }
export function stored(key) { try { return localStorage.getItem(key); } catch { return null; } }

export function say(text) { $("say").textContent = text; }

// A notice at the bottom; kind "bad" stays until it is closed.
export function toast(text, kind = "bad", action = null) {
  const close = () => box.remove();
  const box = el("div", { class: `toast ${kind}` }, el("span", {}, text), action,
    el("button", { type: "button", class: "close", "aria-label": t("close"), onclick: close }, "×"));
  $("toasts").append(box);
  while ($("toasts").children.length > 4) $("toasts").firstElementChild.remove();
  return box;
}

export function askToken() { if (!$("token-dialog").open) $("token-dialog").showModal(); }

export function report(error) {
  if (error instanceof ApiError && error.status === 401) askToken();
  else toast(error instanceof ApiError ? errorText(error) : t("offline"));
}

export async function attempt(action) {
  try { return await action(); } catch (error) { report(error); return undefined; }
}

// Hide a thing now and delete it when the time to undo is over. A page that is closed before deletes nothing.
export const hidden = new Set();
export function removeLater(path, id, name, redraw) {
  hidden.add(id);
  redraw();
  const undo = el("button", { type: "button", class: "undo", onclick: () => { clearTimeout(timer); hidden.delete(id); box.remove(); redraw(); } }, t("undo"));
  const box = toast(t("removed", { name }), "plain", undo);
  const timer = setTimeout(async () => {
    box.remove();
    const done = await attempt(async () => { await call("DELETE", path); return true; });
    hidden.delete(id);
    if (!done) redraw();
  }, UNDO_SECONDS * 1000);
}
