// The page: videos, the chosen one, the queue. State lives on the server; this file shows it and asks for changes.

import { API, ApiError, $, askToken, attempt, call, el, hidden, removeLater, say, store, stored, toast } from "./base.js";
import { drawForm, showPlan } from "./form.js";
import { drawQueue, focusJob } from "./queue.js";
import { acceptDrops, uploading } from "./uploads.js";
import { closeViewer, openViewer, place, viewed } from "./viewer.js";
import { bytes, date, duration, errorText, getLanguage, number, rateText, setLanguage, t } from "./words.js";

const sources = new Map(), jobs = new Map();
const refusedSaid = new Set();
let whole = false; // whether everything that the server has was received
let server = null, chosen = null, former = null; // former: chosen before an upload, for when that is refused

// -- videos

function choose(id) {
  chosen = id;
  history.replaceState(null, "", id ? `#video=${id}` : "#");
  document.body.classList.toggle("has-video", Boolean(id));
  drawChosen();
  drawVideos();
}

function badge(text, kind = "") { return el("li", { class: `badge ${kind}` }, text); }

export function still(source, at, width) { return `${API}/sources/${source.id}/still?at=${at.toFixed(2)}&width=${width}`; }

function retryStill(event) { // "busy" is an answer while a page asks for eight at once
  const image = event.target, tries = Number(image.dataset.tries ?? 0);
  if (tries >= 12) return;
  image.dataset.tries = String(tries + 1);
  setTimeout(() => { image.src = image.src.replace(/&again=\d+$/, "") + `&again=${tries + 1}`; }, Math.min(5000, 700 * (tries + 1)));
}

function drawChosen() {
  const box = $("video"), source = sources.get(chosen);
  box.hidden = !source || hidden.has(source.id) || ["receiving", "refused"].includes(source.state);
  if (box.hidden) { box.replaceChildren(); return; }
  if (source.state === "probing") { box.replaceChildren(el("h2", { id: "video-title" }, t("looking", { name: source.name })), el("progress", { "aria-label": t("looking", { name: source.name }) })); return; }
  const info = source.info, kinds = {};
  for (const stream of info.streams ?? []) if (stream.kind !== "video") kinds[stream.kind] = (kinds[stream.kind] ?? 0) + 1;
  const facts = [
    [t("size"), `${info.width} × ${info.height}`], [t("rate"), t("fps", { n: rateText(info.rate) })], [t("length"), duration(Number(info.duration))],
    [t("frames"), info.frames ? number(info.frames) : "–"], [t("codec"), [info.codec, info.pixels].filter(Boolean).join(", ")], [t("file"), bytes(source.size)],
    Object.keys(kinds).length ? [t("streams"), Object.entries(kinds).map(([kind, n]) => `${n > 1 ? `${n} × ` : ""}${t(kind)}`).join(", ")] : null,
  ];
  const badges = [info.vfr ? badge(t("vfr"), "warn") : null, info.hdr ? badge(`HDR ${info.hdr}`) : null, info.interlaced ? badge(t("interlaced"), "warn") : null, info.rotation ? badge(t("rotated", { n: info.rotation })) : null];
  const form = drawForm(source, { server, still, retryStill, takeJob, redraw: drawChosen, removeButton });
  box.replaceChildren(
    el("div", { class: "video-head" },
      el("img", { class: "poster", src: still(source, Math.min(1, info.duration / 2), 640), alt: "", onerror: retryStill }),
      el("div", {}, el("h2", { id: "video-title" }, source.name), el("dl", { class: "facts" }, facts.filter(Boolean).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
        badges.some(Boolean) ? el("ul", { class: "badges" }, badges) : null,
        info.warnings?.length ? el("ul", { class: "notes" }, info.warnings.map((text) => el("li", {}, text))) : null)),
    ...form);
}

function redraw() { drawChosen(); drawVideos(); drawSoon(); }

function removeButton(source) {
  return el("button", { type: "button", class: "quiet remove", onclick: () => { removeLater(`/sources/${source.id}`, source.id, source.name, redraw); } }, t("remove"));
}

function showSteps() { document.body.classList.toggle("fresh", whole && !sources.size && !jobs.size); } // for who comes to an empty page

function drawVideos() {
  showSteps();
  const others = [...sources.values()].filter((source) => source.id !== chosen && source.state !== "refused" && !hidden.has(source.id) && !uploading.has(source.id));
  $("videos").hidden = !others.length;
  const known = new Map([...$("video-list").children].map((row) => [row.dataset.source, row]));
  $("video-list").replaceChildren(...others.reverse().map((source) => {
    const said = `${source.state} ${getLanguage()}`, old = known.get(source.id);
    if (old?.dataset.said === said) return old; // its thumbnail stays
    const info = source.info;
    const facts = source.state === "ready" ? [`${info.width} × ${info.height}`, t("fps", { n: rateText(info.rate) }), duration(Number(info.duration)), bytes(source.size), date(source.created)] : [t("looking", { name: "" }).trim()];
    return el("li", { class: "card video-row", "data-source": source.id, "data-said": said },
      source.state === "ready" ? el("img", { class: "thumb", src: still(source, Math.min(1, info.duration / 2), 240), alt: "", loading: "lazy", onerror: retryStill }) : el("span", { class: "thumb" }),
      el("div", { class: "grow" }, el("div", { class: "name" }, source.name), el("div", { class: "line num" }, facts.map((fact) => el("span", {}, fact)))),
      el("div", { class: "buttons" }, source.state === "ready" ? el("button", { type: "button", class: "use", onclick: () => { choose(source.id); $("video").scrollIntoView({ block: "start" }); } }, t("use")) : null, removeButton(source)));
  }));
}

// A refused video says why, and goes: there is nothing to be done with it.
function refuse(source) {
  if (refusedSaid.has(source.id)) return;
  refusedSaid.add(source.id);
  const why = errorText(source.error);
  toast(why.includes(source.name) ? why : t("refused", { name: source.name, why }));
  sources.delete(source.id);
  if (source.id === chosen) choose(sources.has(former) ? former : null);
  call("DELETE", `/sources/${source.id}`).catch(() => {});
}

// -- jobs

async function view(job, at = 0) {
  await openViewer(job, () => { if (chosen) history.replaceState(null, "", `#video=${chosen}`); focusJob(job.id); }, at);
  history.replaceState(null, "", `#job=${job.id}`);
}

function stillOf(job) {
  const source = sources.get(job.source);
  return source?.state === "ready" ? still(source, job.options.start ?? Math.min(1, source.info.duration / 2), 240) : "";
}

let drawing = false;
function drawSoon() { // two hundred events in one moment make one drawing
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => { drawing = false; showSteps(); drawQueue(jobs, { stillOf, retryStill, takeJob, view, redraw }); });
}

// -- what the server says

function takeSource(source) {
  const old = sources.get(source.id);
  if (old && old.revision > source.revision) return; // an answer that an event has overtaken
  sources.set(source.id, source);
  if (source.state === "refused") { refuse(source); return; }
  if (source.id === chosen) {
    if (!old || old.state !== source.state || old.mask !== source.mask) drawChosen();
    if (old && old.state !== "ready" && source.state === "ready") say(t("saidReady", { name: source.name }));
  }
  drawVideos();
}

function uploaded(source, show = true) {
  takeSource(source);
  if (source.state === "refused") return;
  if (!show && sources.has(chosen)) { drawVideos(); return; } // events about it came before the upload's own answer
  if (chosen !== source.id) former = chosen;
  choose(source.id);
}

function takeJob(job) {
  const old = jobs.get(job.id);
  if (old && old.revision > job.revision) return;
  jobs.set(job.id, job);
  if (old && old.state !== job.state) {
    if (job.state === "done") {
      say(t("saidDone", { name: job.source_name }));
      if (job.source === chosen) showPlan();
      if (job.kind === "preview" && !viewed()) view(job);
    }
    if (job.state === "failed") say(t("saidFailed", { name: job.source_name, why: job.error?.message ?? "" }));
  }
  drawSoon();
}

function gone(id) {
  sources.delete(id);
  jobs.delete(id);
  if (viewed() === id) closeViewer();
  if (chosen === id) choose(null); else drawVideos();
  drawSoon();
}

function listen() {
  const stream = new EventSource(`${API}/events`);
  let seen = new Set();
  stream.addEventListener("open", () => { $("link").hidden = true; seen = new Set(); whole = false; });
  stream.addEventListener("error", () => {
    $("link").hidden = false;
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 3000); // refused: browsers do not try again
  });
  stream.addEventListener("source", (event) => { const source = JSON.parse(event.data); seen.add(source.id); takeSource(source); });
  stream.addEventListener("job", (event) => { const job = JSON.parse(event.data); seen.add(job.id); takeJob(job); });
  stream.addEventListener("gone", (event) => gone(JSON.parse(event.data).id));
  stream.addEventListener("ready", () => {
    if (!whole) for (const id of [...sources.keys(), ...jobs.keys()]) if (!seen.has(id) && !uploading.has(id)) gone(id);
    whole = true;
    showSteps();
    const [, kind, id] = location.hash.match(/^#(video|film|job)=([0-9a-f]{16})$/) ?? [];
    if (kind && kind !== "job" && sources.has(id) && chosen !== id) choose(id);
    if (kind === "job" && jobs.get(id)?.state === "done" && viewed() !== id) { const job = jobs.get(id); if (sources.has(job.source)) choose(job.source); view(job); }
  });
}

// -- path, token, theme, language

function setUpPath() {
  $("path-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const source = await attempt(() => call("POST", "/sources", { path: $("path").value }));
    if (source) uploaded(source);
  });
}

async function openSession(token) { await call("POST", "/session", { token }); }

function setUpChoices() {
  $("token-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    try { await openSession($("token").value); location.reload(); } catch { $("token-wrong").hidden = false; }
  });
  const theme = stored("theme");
  if (theme) document.documentElement.dataset.theme = theme;
  $("theme").addEventListener("click", () => {
    const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    store("theme", document.documentElement.dataset.theme);
  });
  const speak = (language) => {
    setLanguage(language);
    const other = getLanguage() === "zh" ? ["en", "English"] : ["zh", "中文"];
    Object.assign($("language"), { lang: other[0], textContent: other[1] });
    $("language").setAttribute("aria-label", other[1]);
  };
  speak(stored("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en"));
  $("language").addEventListener("click", () => {
    speak(getLanguage() === "zh" ? "en" : "zh");
    store("language", getLanguage());
    redraw();
    const job = jobs.get(viewed());
    if (job) view(job, place());
  });
}

async function begin() {
  setUpChoices();
  setUpPath();
  acceptDrops(uploaded);
  const given = location.hash.match(/^#token=(.+)$/);
  if (given) { history.replaceState(null, "", "#"); await openSession(decodeURIComponent(given[1])).catch(() => {}); }
  try { server = await call("GET", "/server"); } catch (error) {
    if (error instanceof ApiError && error.status === 401) askToken(); else { $("link").hidden = false; setTimeout(() => location.reload(), 3000); }
    return;
  }
  $("by-path").hidden = !server.paths_allowed;
  document.documentElement.dataset.ready = "";
  listen();
}

begin();
