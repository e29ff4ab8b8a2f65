// The page: films, the film at hand, the queue. State lives on the server; this file shows it and asks for changes.

import { API, ApiError, $, call, el, say, toast } from "./base.js";
import { closeViewer, openViewer, place, viewed } from "./viewer.js";
import { openMask } from "./mask.js";
import { bytes, duration, errorText, getLanguage, number, rateText, rateValue, setLanguage, t } from "./words.js";

const PIECE = 8 * 1024 * 1024; // bytes of one PUT: small enough to lose little, large enough to be quick
const STILLS = 8;
const sources = new Map(), jobs = new Map(), uploads = new Map(), rows = new Map();
let whole = false; // all that the server has was told
let server = null, film = null, plan = null, planNumber = 0;
let wish = fresh();

function fresh() { return { rate: "ratio:2", scene: "auto", dedup: "off", static: "auto", model: null, crf: "16", codec: "auto", container: "mp4", audio: true, slowAudio: false, useMask: false, start: 0, length: 3, more: false }; }

function store(key, value) { try { if (value === null) localStorage.removeItem(key); else localStorage.setItem(key, value); } catch { /* private window: the choice lasts as long as the page */ } }
function stored(key) { try { return localStorage.getItem(key); } catch { return null; } }

async function attempt(action) {
  try { return await action(); } catch (error) {
    if (error instanceof ApiError && error.status === 401) askToken();
    else toast(error instanceof ApiError ? errorText(error) : t("offline"));
    return undefined;
  }
}

function kept(id) { try { return JSON.parse(sessionStorage.getItem(`wish ${id}`)) ?? {}; } catch { return {}; } } // choices outlive a reload

// -- uploading

async function addFile(file) {
  const key = `upload ${file.name} ${file.size} ${file.lastModified}`;
  let source = null;
  const known = stored(key);
  if (known) source = await call("GET", `/sources/${known}`).catch(() => null);
  if (!source || source.state !== "receiving") source = await attempt(() => call("POST", "/sources", { name: file.name, size: file.size }));
  if (!source) return;
  store(key, source.id);
  const bar = el("progress", { max: String(file.size), value: 0, "aria-label": t("uploading", { name: file.name }) });
  const text = el("span", { class: "small soft grow" }, t("uploading", { name: file.name }));
  const upload = { stop: false };
  const box = el("div", { class: "upload" }, el("div", { class: "row" }, text, el("button", { onclick: () => { upload.stop = true; } }, t("stopUpload"))), bar);
  uploads.set(source.id, upload);
  $("uploads").append(box);
  let wait = 500;
  while (source.state === "receiving" && !upload.stop) {
    try {
      const from = source.received;
      source = await call("PUT", `/sources/${source.id}/content?offset=${from}`, file.slice(from, from + PIECE));
      bar.value = source.received;
      text.textContent = `${t("uploading", { name: file.name })} · ${bytes(source.received)} / ${bytes(file.size)}`;
      wait = 500;
    } catch (error) {
      if (error instanceof ApiError && ![409, 429].includes(error.status)) { toast(errorText(error)); break; }
      text.textContent = t("uploadWaits", { size: bytes(source.received) });
      await new Promise((done) => setTimeout(done, wait));
      wait = Math.min(wait * 2, 10000);
      try { source = await call("GET", `/sources/${source.id}`); } catch (again) { if (again instanceof ApiError && again.status === 404) break; }
    }
  }
  uploads.delete(source.id);
  store(key, null);
  box.remove();
  if (upload.stop) { await call("DELETE", `/sources/${source.id}`).catch(() => {}); return; }
  takeSource(source);
  chooseFilm(source.id);
}

function setUpDrop() {
  const drop = $("drop"), input = $("file");
  input.addEventListener("change", () => { for (const file of input.files) addFile(file); input.value = ""; });
  for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => { event.preventDefault(); for (const file of event.dataTransfer.files) addFile(file); });
  for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault()); // a miss must not open the film
  $("path-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const source = await attempt(() => call("POST", "/sources", { path: $("path").value.trim() }));
    if (source) { takeSource(source); chooseFilm(source.id); }
  });
}

// -- the film at hand

function chooseFilm(id) {
  if (film !== id) { wish = { ...fresh(), ...kept(id) }; plan = null; }
  film = id;
  history.replaceState(null, "", id ? `#film=${id}` : "#");
  document.body.classList.toggle("has-film", Boolean(id));
  drawFilm();
  drawFilms();
}

function badge(text, kind = "") { return el("li", { class: `badge ${kind}` }, text); }

function drawFilm() {
  const box = $("film"), source = sources.get(film);
  box.hidden = !source || source.state === "receiving";
  if (box.hidden) { box.replaceChildren(); return; }
  if (source.state === "probing") { box.replaceChildren(el("h2", { id: "film-title" }, t("looking", { name: source.name })), el("progress", { "aria-label": t("looking", { name: source.name }) })); return; }
  if (source.state === "refused") {
    box.replaceChildren(el("h2", { id: "film-title" }, source.name), el("p", { class: "bad" }, `${t("notReady")}: ${errorText(source.error)}`), el("div", { class: "actions" }, removeButton(source)));
    return;
  }
  const info = source.info, kinds = {};
  for (const stream of info.streams ?? []) if (stream.kind !== "video") kinds[stream.kind] = (kinds[stream.kind] ?? 0) + 1;
  const facts = [
    [t("size"), `${info.width} × ${info.height}`], [t("rate"), t("fps", { n: rateText(info.rate) })], [t("length"), duration(Number(info.duration))],
    [t("frames"), info.frames ? number(info.frames) : "–"], [t("codec"), [info.codec, info.pixels].filter(Boolean).join(", ")], [t("file"), bytes(source.size)],
    Object.keys(kinds).length ? [t("streams"), Object.entries(kinds).map(([kind, n]) => `${n > 1 ? `${n} × ` : ""}${t(kind)}`).join(", ")] : null,
  ];
  const badges = [info.vfr ? badge(t("vfr"), "warn") : null, info.hdr ? badge(`HDR ${info.hdr}`) : null, info.interlaced ? badge(t("interlaced"), "warn") : null, info.rotation ? badge(t("rotated", { n: info.rotation })) : null];
  box.replaceChildren(
    el("div", { class: "film-head" },
      el("img", { class: "poster", src: still(source, Math.min(1, info.duration / 2), 640), alt: "" }),
      el("div", {}, el("h2", { id: "film-title" }, source.name), el("dl", { class: "facts" }, facts.filter(Boolean).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
        badges.some(Boolean) ? el("ul", { class: "badges" }, badges) : null,
        info.warnings?.length ? el("ul", { class: "notes" }, info.warnings.map((text) => el("li", {}, text))) : null)),
    drawRates(source), drawPreview(source), drawActions(source));
  showPlan();
  askPlan();
}

function still(source, at, width) { return `${API}/sources/${source.id}/still?at=${at.toFixed(2)}&width=${width}`; }

function chips(source) {
  const ntsc = String(source.info.rate).endsWith("/1001"), own = rateValue(source.info.rate);
  const rates = (ntsc ? ["48", "50", "60000/1001", "60", "120000/1001", "120"] : ["48", "50", "60", "120"]).filter((r) => rateValue(r) > own + 0.1);
  return [["ratio:2", "2×"], ["ratio:4", "4×"], ...rates.map((r) => [`fps:${r}`, rateText(r)]), ...[2, 4, 8].map((n) => [`slowmo:${n}`, t("slow", { n })])];
}

function drawRates(source) {
  const list = chips(source);
  if (!list.some(([value]) => value === wish.rate)) wish.rate = list[0][0];
  const select = (value) => {
    wish.rate = value;
    for (const chip of group.children) { chip.setAttribute("aria-checked", String(chip.dataset.rate === value)); chip.tabIndex = chip.dataset.rate === value ? 0 : -1; }
    slowSound.hidden = !value.startsWith("slowmo");
    askPlan();
  };
  const group = el("div", { class: "chips", role: "radiogroup", "aria-labelledby": "rate-title", onkeydown: (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const all = [...group.children], next = all[(all.indexOf(event.target) + by + all.length) % all.length];
    next.focus();
    select(next.dataset.rate);
  } }, list.map(([value, label]) => el("button", { type: "button", role: "radio", "data-rate": value, "aria-checked": String(wish.rate === value), tabindex: wish.rate === value ? "0" : "-1", onclick: () => select(value) }, label)));
  const choice = (label, key, values) => el("label", {}, label, el("select", { name: key, onchange: (event) => { wish[key] = event.target.value; askPlan(); } }, values.map(([value, text]) => el("option", { value, selected: String(wish[key]) === value }, text))));
  const check = (label, key, hidden) => el("label", { class: "check", hidden }, el("input", { type: "checkbox", checked: wish[key], onchange: (event) => { wish[key] = event.target.checked; askPlan(); } }), label);
  const slowSound = check(t("slowSound"), "slowAudio", !wish.rate.startsWith("slowmo"));
  const useMask = check(t("useMask"), "useMask", !source.mask);
  wish.model ??= server.model;
  const options = el("details", { class: "more", open: wish.more, ontoggle: (event) => { wish.more = event.target.open; } }, el("summary", {}, t("options")), el("div", { class: "options" },
    choice(t("cuts"), "scene", [["auto", t("cutsAuto")], ["off", t("cutsOff")]]), choice(t("dedup"), "dedup", [["off", t("dedupOff")], ["auto", t("dedupAuto")]]),
    choice(t("overlays"), "static", [["auto", t("staticAuto")], ["off", t("staticOff")]]), choice(t("quality"), "crf", [["12", t("finest")], ["16", t("fine")], ["22", t("small")]]),
    choice(t("format"), "codec", [["auto", t("formatAuto")], ["libx264", "H.264"], ["libx265", "H.265"], ["libsvtav1", "AV1"]]), choice(t("container"), "container", [["mp4", "MP4"], ["mkv", "MKV"]]),
    choice(t("model"), "model", server.models.map((name) => [name, name])), check(t("keepSound"), "audio"), slowSound, useMask,
    el("button", { type: "button", class: "mask", onclick: () => openMask(source, wish.start, (has) => { wish.useMask = has; source.mask = has; drawFilm(); document.querySelector("button.mask")?.focus(); }) }, t("paintMask"))));
  return el("section", { class: "step" }, el("h3", { id: "rate-title" }, t("rateTitle")), group, el("dl", { id: "predict", class: "predict", "aria-live": "polite" }), el("p", { id: "basis", class: "soft small" }), options);
}

function drawPreview(source) {
  const total = Number(source.info.duration);
  const strip = el("div", { class: "strip", "aria-hidden": "true" });
  for (let i = 0; i < STILLS; i += 1) strip.append(el("img", { src: still(source, total * (i + 0.5) / STILLS, 240), alt: "", loading: "lazy", onerror: (event) => retryStill(event.target) }));
  const windowBox = el("div", { class: "window" });
  strip.append(windowBox);
  const at = el("input", { type: "range", class: "at", min: "0", step: "0.1", "aria-label": t("previewAt") });
  const text = el("output", { class: "num" });
  const lengths = [2, 3, 4, 5].map((n) => el("option", { value: String(n), selected: wish.length === n }, t("seconds", { n })));
  const length = el("select", { "aria-label": t("previewLength"), onchange: () => { wish.length = Number(length.value); show(); } }, lengths);
  const show = () => {
    at.max = String(Math.max(0, total - wish.length).toFixed(1));
    wish.start = Math.min(wish.start, Number(at.max));
    at.value = String(wish.start);
    windowBox.style.left = `${100 * wish.start / total}%`;
    windowBox.style.width = `${Math.min(100, 100 * wish.length / total)}%`;
    text.textContent = t("seconds", { n: `${number(wish.start, 1)} – ${number(Math.min(total, wish.start + wish.length), 1)}` });
    at.setAttribute("aria-valuetext", text.textContent);
  };
  at.addEventListener("input", () => { wish.start = Number(at.value); show(); });
  show();
  return el("section", { class: "step" }, el("h3", {}, t("previewTitle")), strip, el("div", { class: "pick" }, at, text, length));
}

function retryStill(image) { // "busy" is an answer while a page asks for eight at once
  const tries = Number(image.dataset.tries ?? 0);
  if (tries >= 12) return;
  image.dataset.tries = String(tries + 1);
  setTimeout(() => { image.src = image.src.replace(/&again=\d+$/, "") + `&again=${tries + 1}`; }, Math.min(5000, 700 * (tries + 1)));
}

function drawActions(source) {
  const run = (kind) => attempt(async () => {
    takeJob(await call("POST", "/jobs", { source: source.id, kind, options: options(), preview_start: wish.start, preview_seconds: wish.length }));
    $("jobs").scrollIntoView({ block: "nearest" });
  });
  return el("div", { class: "actions" }, el("button", { type: "button", class: "main preview", onclick: () => run("preview") }, t("preview")), el("button", { type: "button", class: "whole", onclick: () => run("full") }, t("whole")),
    el("button", { type: "button", class: "copy", onclick: () => openCopy(source) }, t("copy")), removeButton(source));
}

function removeButton(source) { return el("button", { type: "button", class: "quiet", onclick: () => attempt(() => call("DELETE", `/sources/${source.id}`)) }, t("remove")); }

function options() {
  const [kind, value] = wish.rate.split(":");
  const given = { [kind]: value, scene: wish.scene, dedup: wish.dedup, static: wish.static, model: wish.model, codec: wish.codec, container: wish.container, audio: wish.audio };
  if (wish.crf !== "16") given.crf = Number(wish.crf);
  if (kind === "slowmo" && wish.slowAudio) given.slow_audio = "stretch";
  if (wish.useMask && sources.get(film)?.mask) given.use_mask = true;
  return given;
}

async function askPlan() {
  const mine = planNumber += 1, source = sources.get(film);
  try { sessionStorage.setItem(`wish ${film}`, JSON.stringify(wish)); } catch { /* private window */ }
  if (source?.state !== "ready") return;
  const answer = await attempt(() => call("POST", "/plans", { source: source.id, options: options() }));
  if (answer && mine === planNumber) { plan = answer; showPlan(); }
}

function showPlan() {
  const box = $("predict");
  if (!box || !plan) return;
  const fact = (name, value) => el("div", {}, el("dt", {}, name), el("dd", {}, ...[value].flat()));
  box.replaceChildren(fact(t("predictFrames"), number(plan.frames)), fact(t("predictRate"), [t("fps", { n: rateText(plan.rate) }), ", ", el("span", {}, duration(plan.duration))]), fact(t("predictSize"), bytes(plan.bytes)),
    fact(t("predictTime"), plan.work_seconds === null ? t("unknownTime") : duration(plan.work_seconds)));
  $("basis").textContent = t({ "this film": "basisFilm", "other films": "basisOther", nothing: "basisNothing" }[plan.basis]);
}

async function openCopy(source) {
  await askPlan(); // the words must be those of the choices as they are now
  if (!plan) return;
  const dialog = $("copy-dialog");
  const part = (title, text) => [el("h3", {}, t(title)), el("pre", { tabindex: "0" }, text), el("div", { class: "row end" }, el("button", { type: "button", onclick: (event) => copyText(text, event.target) }, t("copyIt")))];
  const mask = options().use_mask ? el("p", { class: "soft small" }, t("maskNote", { name: `${source.name.replace(/\.[^.]*$/, "")}-mask.png` })) : null;
  dialog.replaceChildren(el("h2", { id: "copy-title" }, t("copyTitle")), ...part("commandLine", plan.command_line), ...part("python", plan.python), ...(mask ? [mask] : []),
    el("div", { class: "row end" }, el("button", { type: "button", onclick: () => dialog.close() }, t("close"))));
  dialog.showModal();
}

async function copyText(text, button) {
  try { await navigator.clipboard.writeText(text); } catch { // no clipboard on plain http from another machine: select it instead
    getSelection().selectAllChildren(button.closest("div").previousElementSibling);
    return;
  }
  button.textContent = t("copied");
  say(t("copied"));
}

function showSteps() { document.body.classList.toggle("fresh", whole && !sources.size && !jobs.size); } // for who comes to an empty page

function drawFilms() {
  showSteps();
  const others = [...sources.values()].filter((source) => source.id !== film && !uploads.has(source.id));
  $("films").hidden = !others.length;
  $("film-list").replaceChildren(...others.map((source) => el("li", { class: "card film-row" }, el("span", {}, source.name, source.state === "ready" ? null : el("em", { class: "soft small" }, ` ${source.state === "refused" ? t("notReady") : ""}`)),
    source.state === "ready" ? el("button", { onclick: () => { chooseFilm(source.id); $("film").scrollIntoView({ block: "start" }); } }, t("use")) : null, removeButton(source))));
}

// -- the queue

function stateText(job) {
  if (job.wish === "pause") return t("pausing");
  if (job.wish === "cancel") return t("cancelling");
  if (job.state === "queued") { const place = [...jobs.values()].filter((other) => other.state === "queued" && before(other, job)).length + 1; return place > 1 || [...jobs.values()].some((o) => o.state === "running") ? t("queuedAt", { n: place }) : t("queued"); }
  if (job.state === "running" && job.progress.stage !== "frames") return t(job.progress.stage);
  if (job.state === "running" && !job.progress.frames) return t("starting");
  return t(job.state);
}
function before(a, b) { return a.kind === b.kind ? a.number < b.number : a.kind === "preview"; }

function drawJob(job) {
  let row = rows.get(job.id);
  if (!row) {
    row = { box: el("li", { class: "card job", "data-job": job.id }), image: el("img", { class: "thumb", alt: "" }), name: el("div", { class: "name" }), line: el("div", { class: "line num" }), bar: el("progress", { max: "1" }), buttons: el("div", { class: "buttons" }), said: "" };
    row.image.addEventListener("error", () => { row.image.hidden = false; });
    row.box.append(row.image, el("div", {}, row.name, row.bar, row.line), row.buttons);
    rows.set(job.id, row);
  }
  const p = job.progress, source = sources.get(job.source);
  row.name.textContent = job.source_name || job.output_name;
  row.bar.hidden = !["running", "paused"].includes(job.state);
  row.bar.setAttribute("aria-label", stateText(job));
  if (job.state === "running" && !p.total) row.bar.removeAttribute("value"); else row.bar.value = p.total ? p.frames / p.total : 0;
  const parts = [el("span", { class: `badge ${{ failed: "bad", paused: "warn" }[job.state] ?? ""}` }, stateText(job)), el("span", {}, `${t(job.kind === "preview" ? "previewKind" : "fullKind")} · ${rateLabel(job)}`)];
  if (p.total && ["running", "paused"].includes(job.state)) parts.push(el("span", {}, t("ofFrames", { a: number(p.frames), b: number(p.total) })));
  if (job.state === "running" && p.fps) parts.push(el("span", {}, t("fps", { n: number(p.fps, 1) })));
  if (job.state === "running" && p.seconds_left) parts.push(el("span", {}, t("left", { t: duration(p.seconds_left) })));
  if (job.state === "done") { if (job.size) parts.push(el("span", {}, bytes(job.size))); if (job.finished && job.started) parts.push(el("span", {}, t("took", { t: duration(job.finished - job.started) }))); }
  if (job.error) parts.push(el("span", { class: "bad" }, errorText(job.error)));
  row.line.replaceChildren(...parts);
  const picture = job.state === "running" && p.picture ? `${API}/jobs/${job.id}/picture?number=${p.picture}` : null;
  const wanted = picture ?? row.image.getAttribute("src") ?? (source?.state === "ready" ? still(source, job.options.start ?? 1, 240) : "");
  if (wanted && row.image.getAttribute("src") !== wanted) row.image.src = wanted;
  const signature = `${job.state} ${job.wish} ${job.files} ${getLanguage()} ${viewed() === job.id}`;
  if (signature !== row.said) { // while only numbers change, buttons and focus stay
    row.said = signature;
    row.held = row.buttons.contains(document.activeElement) || (row.held && document.activeElement === document.body); // who works by keyboard stays here
    row.buttons.replaceChildren(...jobButtons(job));
    if (row.held) row.buttons.querySelector("button:not(:disabled), a")?.focus({ preventScroll: true });
  }
}

function rateLabel(job) {
  const o = job.options;
  return o.slowmo ? t("slow", { n: o.slowmo }) : o.fps ? t("fps", { n: rateText(o.fps) }) : `${o.ratio ?? 2}×`;
}

function jobButtons(job) {
  const ask = (what, word = what) => el("button", { class: what, onclick: () => attempt(async () => takeJob(await call("POST", `/jobs/${job.id}/${what}`))), disabled: Boolean(job.wish) }, t(word));
  const remove = () => el("button", { class: "quiet", onclick: () => attempt(() => call("DELETE", `/jobs/${job.id}`)) }, t("remove"));
  if (job.state === "queued" || job.state === "running") return [ask("pause"), ask("cancel")];
  if (job.state === "paused") return [ask("resume"), ask("cancel")];
  if (job.state === "done") return [job.files.includes("before") ? el("button", { class: "main view", onclick: () => view(job) }, t("view")) : null, el("a", { class: "button download", href: `${API}/jobs/${job.id}/files/result`, download: job.output_name }, t("download")), remove()].filter(Boolean);
  return [ask("retry"), remove()];
}

async function view(job, at = 0) {
  await openViewer(job, () => { if (film) history.replaceState(null, "", `#film=${film}`); drawJob(jobs.get(job.id)); rows.get(job.id)?.buttons.querySelector("button")?.focus(); }, at);
  history.replaceState(null, "", `#job=${job.id}`);
}

function drawQueue() {
  showSteps();
  const order = { running: 0, queued: 1, paused: 2 };
  const list = [...jobs.values()].sort((a, b) => (order[a.state] ?? 3) - (order[b.state] ?? 3) || (a.state === "queued" ? (before(a, b) ? -1 : 1) : b.number - a.number));
  $("jobs").hidden = !list.length;
  const box = $("job-list");
  list.forEach((job, i) => { drawJob(job); const row = rows.get(job.id).box; if (box.children[i] !== row) box.insertBefore(row, box.children[i] ?? null); });
  for (const [id, row] of rows) if (!jobs.has(id)) { row.box.remove(); rows.delete(id); }
}

let drawing = false;
function drawSoon() { // two hundred events in one moment make one drawing
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => { drawing = false; drawQueue(); });
}

// -- what the server says

function takeSource(source) {
  const old = sources.get(source.id);
  if (old && old.revision > source.revision) return; // an answer that an event has overtaken
  sources.set(source.id, source);
  if (source.id === film) {
    if (!old || old.state !== source.state || old.mask !== source.mask) drawFilm();
    if (old && old.state !== "ready" && source.state === "ready") say(t("saidReady", { name: source.name }));
  }
  drawFilms();
}

function takeJob(job) {
  const old = jobs.get(job.id);
  if (old && old.revision > job.revision) return;
  jobs.set(job.id, job);
  if (old && old.state !== job.state) {
    if (job.state === "done") { say(t("saidDone", { name: job.source_name })); if (job.source === film) askPlan(); if (job.kind === "preview" && !viewed()) view(job); }
    if (job.state === "failed") say(t("saidFailed", { name: job.source_name, why: job.error?.message ?? "" }));
  }
  drawSoon();
}

function gone(id) {
  sources.delete(id);
  jobs.delete(id);
  if (viewed() === id) closeViewer();
  if (film === id) chooseFilm(null); else drawFilms();
  drawSoon();
}

function listen() {
  const stream = new EventSource(`${API}/events`);
  let seen = new Set();
  stream.addEventListener("open", () => { $("link").hidden = true; seen = new Set(); whole = false; });
  stream.addEventListener("error", () => { $("link").hidden = false; });
  stream.addEventListener("source", (event) => { const source = JSON.parse(event.data); seen.add(source.id); takeSource(source); });
  stream.addEventListener("job", (event) => { const job = JSON.parse(event.data); seen.add(job.id); takeJob(job); });
  stream.addEventListener("gone", (event) => gone(JSON.parse(event.data).id));
  stream.addEventListener("ready", () => {
    if (!whole) for (const id of [...sources.keys(), ...jobs.keys()]) if (!seen.has(id) && !uploads.has(id)) gone(id);
    whole = true;
    showSteps();
    const [, kind, id] = location.hash.match(/^#(film|job)=([0-9a-f]{16})$/) ?? [];
    if (kind === "film" && sources.has(id) && film !== id) chooseFilm(id);
    if (kind === "job" && jobs.get(id)?.state === "done" && viewed() !== id) { const job = jobs.get(id); if (sources.has(job.source)) chooseFilm(job.source); view(job); }
  });
}

// -- token, theme, language

function askToken() { if (!$("token-dialog").open) $("token-dialog").showModal(); }

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
    drawFilm();
    drawFilms();
    drawSoon();
    const job = jobs.get(viewed());
    if (job) view(job, place());
  });
}

async function begin() {
  setUpChoices();
  setUpDrop();
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
