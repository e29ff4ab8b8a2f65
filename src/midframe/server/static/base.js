// Talking to /api/v1 and making elements. The page uses no other address.

export const API = "/api/v1";

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
    else if (["value", "checked", "muted", "disabled", "hidden"].includes(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const $ = (id) => document.getElementById(id);

export function say(text) { $("say").textContent = text; }

export function toast(text) {
  const box = el("div", { class: "toast" }, el("span", {}, text), el("button", { "aria-label": "×", onclick: () => box.remove() }, "×"));
  $("toasts").append(box);
  setTimeout(() => box.remove(), 12000);
}
