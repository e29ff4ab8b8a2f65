// The HTTP API as a page, made from the server's own OpenAPI document; nothing is loaded from elsewhere.

import { $, ApiError, call, el, stored } from "./base.js";

let components = {};
const theme = stored("theme");
if (theme) document.documentElement.dataset.theme = theme;

const nameOf = (schema) => schema.$ref?.split("/").at(-1);
const resolve = (schema) => (schema.$ref ? components[nameOf(schema)] ?? {} : schema);

function typeText(schema) {
  if (!schema) return "";
  if (schema.$ref) return nameOf(schema);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  if (schema.anyOf) return [...new Set(schema.anyOf.map(typeText))].join(" | ");
  if (schema.type === "array") return `${typeText(schema.items ?? {}) || "any"}[]`;
  return schema.format && schema.format !== "binary" ? `${schema.type} (${schema.format})` : schema.format === "binary" ? "file" : schema.type ?? "any";
}

function table(schema) {
  const { properties = {}, required = [] } = resolve(schema);
  const rows = Object.entries(properties).map(([name, field]) => el("tr", {}, el("td", {}, el("code", {}, name), required.includes(name) ? el("span", { class: "bad", title: "required" }, " *") : null),
    el("td", {}, el("code", {}, typeText(field)), field.default !== undefined && field.default !== null ? el("span", { class: "soft" }, ` = ${JSON.stringify(field.default)}`) : null), el("td", {}, field.description ?? "")));
  return rows.length ? el("div", { class: "scroll" }, el("table", {}, el("tbody", {}, rows))) : null;
}

function body(content = {}) {
  return Object.entries(content).map(([type, { schema = {} }]) => el("div", {}, el("p", { class: "small" }, el("code", {}, type), nameOf(schema) ? ` ${nameOf(schema)}` : ""), table(schema)));
}

function example(method, path, operation) {
  const types = Object.keys(operation.requestBody?.content ?? {}), at = `${location.origin}${path}`;
  if (types.includes("multipart/form-data")) return `curl -F file=@clip.mp4 -F fps=60 ${at}`;
  if (types.includes("application/json")) return `curl -X ${method.toUpperCase()} -H 'content-type: application/json' -d '{…}' ${at}`;
  if (types.length) return `curl -X ${method.toUpperCase()} -T FILE ${at}`;
  return method === "get" ? `curl ${at}` : `curl -X ${method.toUpperCase()} ${at}`;
}

function route(method, path, operation) {
  const answers = Object.entries(operation.responses ?? {}).filter(([code]) => code < "300");
  const parameters = operation.parameters ?? [];
  return el("details", { class: "card route", id: `${method}-${path}` },
    el("summary", {}, el("code", { class: `method ${method}` }, method.toUpperCase()), " ", el("code", {}, path), " ", el("span", {}, (operation.description ?? "").split("\n")[0])),
    ...(operation.description ?? "").split("\n\n").slice(1).map((text) => el("p", {}, text.replaceAll("`", ""))),
    el("pre", {}, example(method, path, operation)),
    parameters.length ? [el("h3", {}, "Parameters"), el("div", { class: "scroll" }, el("table", {}, el("tbody", {}, parameters.map((p) => el("tr", {}, el("td", {}, el("code", {}, p.name)), el("td", {}, el("code", {}, typeText(p.schema)), p.schema?.default !== undefined ? el("span", { class: "soft" }, ` = ${JSON.stringify(p.schema.default)}`) : null), el("td", {}, p.description ?? p.in))))))] : [],
    operation.requestBody ? [el("h3", {}, "Body"), ...body(operation.requestBody.content)] : [],
    answers.map(([code, { content }]) => [el("h3", {}, `Answer ${code}`), ...body(content)]).flat());
}

try {
  const document_ = await call("GET", "/openapi.json");
  components = document_.components?.schemas ?? {};
  $("intro").textContent = document_.info.description;
  const methods = ["get", "post", "put", "delete"];
  $("routes").replaceChildren(...Object.entries(document_.paths).flatMap(([path, one]) => methods.filter((m) => one[m]).map((m) => route(m, path, one[m]))),
    el("h2", {}, "Types"), ...Object.entries(components).map(([name, schema]) => el("details", { class: "card route", id: name }, el("summary", {}, el("code", {}, name), " ", schema.description ?? ""), table(schema))));
} catch (error) {
  $("intro").textContent = error instanceof ApiError && error.status === 401 ? "This server asks for its token: open the main page first." : String(error.message);
}
document.documentElement.dataset.ready = "";
