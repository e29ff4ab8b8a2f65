// The queue and its results: one row a job, with its progress, its buttons and its place.

import { API, $, attempt, call, el, hidden, removeLater, svg } from "./base.js";
import { bytes, date, duration, errorText, getLanguage, number, rateText, t } from "./words.js";

const rows = new Map();

export const shown = (job) => job && !hidden.has(job.id);
export function before(a, b) { return a.kind === b.kind ? a.position < b.position : a.kind === "preview"; }

function stateText(job, jobs) {
  if (job.requested === "pause") return t("pausing");
  if (job.requested === "cancel") return t("cancelling");
  if (job.state === "queued") {
    const all = [...jobs.values()], place = all.filter((other) => other.state === "queued" && before(other, job)).length + 1;
    return place > 1 || all.some((other) => other.state === "running") ? t("queuedAt", { n: place }) : t("queued");
  }
  if (job.state === "running" && job.progress.stage !== "frames") return t(job.progress.stage);
  if (job.state === "running" && !job.progress.frames) return t("starting");
  return t(job.state);
}

function rateLabel(job) {
  const o = job.options;
  return o.slowmo ? t("slowLong", { n: o.slowmo }) : t("fps", { n: rateText(job.rate) });
}

export function drawQueue(jobs, page) {
  const order = { running: 0, queued: 1, paused: 2 };
  const list = [...jobs.values()].filter(shown).sort((a, b) => (order[a.state] ?? 3) - (order[b.state] ?? 3) || (a.state === "queued" ? (before(a, b) ? -1 : 1) : b.number - a.number));
  $("jobs").hidden = !list.length;
  const box = $("job-list");
  list.forEach((job, i) => {
    drawJob(job, jobs, page);
    const row = rows.get(job.id).box;
    if (box.children[i] !== row && !box.querySelector(".dragged")) box.insertBefore(row, box.children[i] ?? null);
  });
  for (const [id, row] of rows) if (!shown(jobs.get(id))) { row.box.remove(); rows.delete(id); }
}

export function focusJob(id) { rows.get(id)?.buttons.querySelector("button")?.focus(); }

function drawJob(job, jobs, page) {
  let row = rows.get(job.id);
  if (!row) {
    row = { box: el("li", { class: "card job", "data-job": job.id }), image: el("img", { class: "thumb", alt: "", onerror: page.retryStill }), name: el("div", { class: "name" }), line: el("div", { class: "line num" }), bar: el("progress", { max: "1" }), buttons: el("div", { class: "buttons" }), said: "" };
    row.box.append(row.image, el("div", {}, row.name, row.bar, row.line), row.buttons);
    rows.set(job.id, row);
  }
  const p = job.progress, state = stateText(job, jobs);
  row.name.textContent = job.state === "done" ? job.output_name : job.source_name || job.output_name;
  row.bar.hidden = !["running", "paused"].includes(job.state);
  row.bar.setAttribute("aria-label", state);
  if (job.state === "running" && !p.total) row.bar.removeAttribute("value"); else row.bar.value = p.total ? p.frames / p.total : 0;
  const parts = [el("span", { class: `badge ${{ failed: "bad", paused: "warn" }[job.state] ?? ""}` }, state), el("span", {}, `${t(job.kind === "preview" ? "previewKind" : "fullKind")} · ${rateLabel(job)}`)];
  if (p.total && ["running", "paused"].includes(job.state)) parts.push(el("span", {}, t("ofFrames", { a: number(p.frames), b: number(p.total) })));
  if (job.state === "running" && p.fps) parts.push(el("span", {}, t("fps", { n: number(p.fps, 1) })));
  if (job.state === "running" && p.seconds_left) parts.push(el("span", {}, t("left", { t: duration(p.seconds_left) })));
  if (job.state === "done") {
    if (job.size) parts.push(el("span", {}, bytes(job.size)));
    if (job.finished && job.started) parts.push(el("span", {}, t("took", { t: duration(job.finished - job.started) })));
    if (job.finished) parts.push(el("span", {}, date(job.finished)));
  }
  if (job.error) parts.push(el("span", { class: "bad" }, errorText(job.error)));
  row.line.replaceChildren(...parts);
  const latest = job.state === "running" && p.latest_frame ? `${API}/jobs/${job.id}/frame?number=${p.latest_frame}` : null;
  const wanted = latest ?? row.image.getAttribute("src") ?? page.stillOf(job);
  if (wanted && row.image.getAttribute("src") !== wanted) row.image.src = wanted;
  const movable = job.state === "queued" && [...jobs.values()].filter((other) => other.state === "queued" && other.kind === job.kind).length > 1;
  const signature = `${job.state} ${job.requested} ${job.files} ${getLanguage()} ${movable}`;
  if (signature !== row.said) { // while only numbers change, buttons and focus stay
    row.said = signature;
    row.held = row.buttons.contains(document.activeElement) || (row.held && document.activeElement === document.body); // who works by keyboard stays here
    row.buttons.replaceChildren(...(movable ? [handle(job, jobs, page)] : []), ...jobButtons(job, page));
    if (row.held) row.buttons.querySelector("button:not(:disabled), a")?.focus({ preventScroll: true });
  }
}

function jobButtons(job, page) {
  const ask = (what) => el("button", { type: "button", class: what, onclick: () => attempt(async () => page.takeJob(await call("POST", `/jobs/${job.id}/${what}`))), disabled: Boolean(job.requested) }, t(what));
  const remove = () => el("button", { type: "button", class: "quiet remove", onclick: () => removeLater(`/jobs/${job.id}`, job.id, job.output_name, page.redraw) }, t("remove"));
  if (job.state === "queued" || job.state === "running") return [ask("pause"), ask("cancel")];
  if (job.state === "paused") return [ask("resume"), ask("cancel")];
  if (job.state !== "done") return [ask("retry"), remove()];
  const compare = job.files.includes("before") ? el("button", { type: "button", class: "main view", onclick: () => page.view(job) }, t("view")) : null;
  const download = el("a", { class: "button download", href: `${API}/jobs/${job.id}/files/result`, download: job.output_name }, t("download"));
  return [compare, download, remove()].filter(Boolean);
}

// Dragged by its handle, by mouse or finger; by arrow keys with the handle in focus.
function handle(job, jobs, page) {
  const grip = el("button", { type: "button", class: "quiet icon grip", "aria-label": t("move"), title: t("move") }, svg("svg", { viewBox: "0 0 24 24", width: 20, height: 20, "aria-hidden": "true" }, svg("path", { d: "M8 5h3v3H8zm5 0h3v3h-3zM8 10.500h3v3H8zm5 0h3v3h-3zM8 16h3v3H8zm5 0h3v3h-3z" })));
  const peers = () => [...$("job-list").children].filter((row) => { const other = jobs.get(row.dataset.job); return other?.state === "queued" && other.kind === job.kind; });
  const own = () => rows.get(job.id).box;
  const settle = () => attempt(async () => {
    const all = peers(), next = all[all.indexOf(own()) + 1];
    page.takeJob(await call("POST", `/jobs/${job.id}/move`, { before: next?.dataset.job ?? null }));
  });
  let grabbed = false;
  grip.addEventListener("pointerdown", (event) => { event.preventDefault(); grip.setPointerCapture(event.pointerId); grip.focus(); grabbed = true; own().classList.add("dragged"); });
  grip.addEventListener("pointermove", (event) => {
    if (!grabbed) return;
    // the others move around the dragged row: one that is moved itself would lose the pointer
    const middle = (row) => { const area = row.getBoundingClientRect(); return area.top + area.height / 2; };
    for (let all = peers(), i = all.indexOf(own()); i > 0 && event.clientY < middle(all[i - 1]); all = peers(), i = all.indexOf(own())) own().after(all[i - 1]);
    for (let all = peers(), i = all.indexOf(own()); i < all.length - 1 && event.clientY > middle(all[i + 1]); all = peers(), i = all.indexOf(own())) own().before(all[i + 1]);
  });
  const drop = () => { if (!grabbed) return; grabbed = false; own().classList.remove("dragged"); settle(); };
  grip.addEventListener("pointerup", drop);
  grip.addEventListener("pointercancel", drop);
  grip.addEventListener("keydown", (event) => {
    const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    const all = peers(), other = all[all.indexOf(own()) + by];
    if (!by || !other) return;
    event.preventDefault();
    if (by < 0) other.before(own()); else other.after(own());
    grip.focus();
    settle();
  });
  return grip;
}
