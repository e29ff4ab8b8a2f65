// Before and after beside each other, in step. The after film leads; the before film, slower or longer shown pictures and
// all, follows at the instant of the source that is shown.

import { API, $, call, el, svg } from "./base.js";
import { clock, rateText, rateValue, t } from "./words.js";

const VIEWS = ["slider", "side", "difference", "after-only"];
const VIEW_WORDS = { slider: "slider", side: "side", difference: "difference", "after-only": "afterOnly" };
const SPEEDS = [1, 0.5, 0.25];
const SLOWEST = 0.0625; // browsers refuse a lower playbackRate
let open = null;

export function viewed() { return open?.job.id ?? null; }

export function closeViewer() {
  if (!open) return;
  open.stop();
  open = null;
  $("viewer").hidden = true;
  $("viewer").replaceChildren();
}

export async function openViewer(job, onClose) {
  closeViewer();
  const box = $("viewer");
  const marks = await call("GET", `/jobs/${job.id}/marks`).catch(() => ({ cuts: [], holds: [], duplicates: [] }));
  const factor = job.options.slowmo ? rateValue(job.options.slowmo) : 1;
  const source = job.source_rate, rate = rateValue(job.rate);
  const url = (kind) => `${API}/jobs/${job.id}/files/${kind}`;
  const film = (kind, muted) => el("video", { src: url(kind), preload: "auto", playsinline: true, muted, tabindex: "-1", "data-kind": kind });
  const before = film("before", true), after = film("after", false);
  const layer = (name, video, label) => el("div", { class: `layer ${name}` }, video, el("span", { class: "tag" }, label));
  const handle = el("div", { class: "handle", role: "slider", tabindex: "0", "aria-label": t("sliderLabel"), "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": "50" });
  const stage = el("div", { class: "stage slider" }, layer("before", before, t("before", { r: rateText(source) })), layer("after", after, t("after", { r: rateText(job.rate) })), handle);
  const broken = el("p", { class: "bad", hidden: true }, t("cannotPlay"));
  const playButton = el("button", { class: "main play", onclick: () => toggle() }, t("play"));
  const viewButtons = VIEWS.map((view) => el("button", { "data-view": view, "aria-pressed": String(view === "slider"), onclick: () => setView(view) }, t(VIEW_WORDS[view])));
  const speedButtons = SPEEDS.map((speed) => el("button", { "data-speed": speed, "aria-pressed": String(speed === 1), onclick: () => setSpeed(speed) }, t({ 1: "normal", 0.5: "half", 0.25: "quarter" }[speed])));
  const clockText = el("span", { class: "clock" });
  const seek = el("input", { type: "range", min: "0", max: "1", step: "any", value: "0", "aria-label": t("seek") });
  const line = svg("svg", { viewBox: "0 0 1000 18", preserveAspectRatio: "none", "aria-hidden": "true" });
  const playhead = svg("rect", { class: "now", x: 0, y: 0, width: 2, height: 18 });
  const controls = el("div", { class: "controls" },
    playButton,
    el("div", { class: "group" }, el("button", { class: "back", "aria-label": t("back"), title: t("back"), onclick: () => step(-1) }, "◂▮"), el("button", { class: "forward", "aria-label": t("forward"), title: t("forward"), onclick: () => step(1) }, "▮▸")),
    el("div", { class: "group", role: "group" }, speedButtons),
    el("div", { class: "group", role: "group" }, viewButtons), clockText);
  const legend = el("ul", { class: "legend" },
    marks.cuts.length ? el("li", {}, el("i", { class: "cut" }), t("nCuts", { n: marks.cuts.length })) : null,
    marks.holds.length ? el("li", {}, el("i", { class: "hold" }), t("nHolds", { n: marks.holds.length })) : null,
    marks.duplicates.length ? el("li", {}, el("i", { class: "dup" }), t("nDups", { n: marks.duplicates.length })) : null,
    marks.cuts.length + marks.holds.length + marks.duplicates.length ? null : el("li", {}, t("nothingMarked")));
  const keyHelp = el("p", { class: "keys" });
  t("keys").split(/<(.*?)>/).forEach((part, i) => keyHelp.append(i % 2 ? el("kbd", {}, part) : part));
  box.replaceChildren(
    el("div", { class: "viewer-head" }, el("h2", { id: "viewer-title", tabindex: "-1" }, job.output_name),
      el("a", { class: "button main download", href: url("result"), download: job.output_name }, t("download")),
      el("button", { class: "close", onclick: () => { closeViewer(); onClose(); } }, t("close"))),
    stage, broken, controls, el("div", { class: "timeline" }, line, seek, legend), keyHelp);
  if (job.warnings.length) box.append(el("ul", { class: "notes" }, job.warnings.map((text) => el("li", {}, text))));
  box.hidden = false;

  let speed = 1, length = 0, frames = 0, running = true, wantsPlay = false;

  const last = () => Math.max(0, frames - 1);
  const frameNow = () => Math.min(last(), Math.floor(after.currentTime * rate + 0.01));

  function measure() {
    if (!after.videoWidth || !before.videoWidth) return;
    length = after.duration;
    frames = Math.max(1, Math.round(length * rate));
    seek.max = String(length);
    fit();
    line.replaceChildren();
    const x = (seconds) => (1000 * seconds / length).toFixed(2);
    const span = (name, [from, to]) => svg("rect", { class: name, x: x(from), y: 4, width: Math.max(2, x(to) - x(from)), height: 10 });
    line.append(...marks.duplicates.map((s) => span("dup", s)), ...marks.holds.map((s) => span("hold", s)), ...marks.cuts.map((at) => svg("rect", { class: "cut", x: x(at) - 1.5, y: 0, width: 3, height: 18 })), playhead);
    show();
  }

  function fit() { // the stage is exactly as large as the picture, so that the slider's border is where it seems to be
    const side = stage.classList.contains("side"), stacked = matchMedia("(max-width: 640px)").matches;
    const ratio = after.videoWidth / after.videoHeight * (side ? (stacked ? 0.5 : 2) : 1);
    stage.style.aspectRatio = String(ratio);
    stage.style.width = `min(100%, ${(74 * ratio).toFixed(2)}vh)`;
  }

  function show() {
    seek.value = String(after.currentTime);
    playhead.setAttribute("x", String(1000 * after.currentTime / (length || 1)));
    clockText.textContent = `${clock(after.currentTime)} · ${t("frameOf", { a: frameNow() + 1, b: frames })}`;
  }

  const sourceTime = () => Math.min(after.currentTime / factor, Math.max(0, before.duration - 0.001));

  function follow() {
    if (!running) return;
    if (!after.paused) {
      const target = sourceTime(), behind = target - before.currentTime, pace = speed / factor;
      if (pace < SLOWEST || Math.abs(behind) > 0.3) {
        if (!before.seeking && Math.abs(behind) > 0.02) before.currentTime = target;
        if (pace < SLOWEST && !before.paused) before.pause();
      } else {
        if (before.paused && !before.ended) before.play().catch(() => {});
        before.playbackRate = Math.max(SLOWEST, pace * (1 + Math.max(-0.3, Math.min(0.3, behind * 3))));
      }
      show();
    }
    requestAnimationFrame(follow);
  }

  function align() { before.pause(); before.currentTime = sourceTime(); show(); }
  function setSpeed(next) {
    speed = next;
    after.playbackRate = speed;
    for (const button of speedButtons) button.setAttribute("aria-pressed", String(Number(button.dataset.speed) === speed));
  }
  function setView(view) {
    stage.classList.remove(...VIEWS);
    stage.classList.add(view);
    for (const button of viewButtons) button.setAttribute("aria-pressed", String(button.dataset.view === view));
    fit();
  }
  function toggle() {
    wantsPlay = after.paused;
    if (!wantsPlay) { after.pause(); return; }
    if (after.ended || after.currentTime > length - 0.5 / rate) after.currentTime = 0;
    after.playbackRate = speed;
    after.play().catch(() => { after.muted = true; after.play().catch(() => {}); });
  }
  function goTo(frame) { after.pause(); after.currentTime = (Math.max(0, Math.min(last(), frame)) + 0.5) / rate; }
  const step = (n) => goTo(frameNow() + n);
  function jump(direction) {
    const all = [...marks.cuts, ...marks.holds.map((s) => s[0]), ...marks.duplicates.map((s) => s[0])].map((s) => Math.round(s * rate)).sort((a, b) => a - b);
    const here = frameNow(), next = direction > 0 ? all.find((n) => n > here) : all.reverse().find((n) => n < here);
    if (next !== undefined) goTo(next);
  }
  function setBorder(percent) {
    const at = Math.max(0, Math.min(100, percent));
    stage.style.setProperty("--at", `${at}%`);
    handle.setAttribute("aria-valuenow", String(Math.round(at)));
  }

  after.addEventListener("loadedmetadata", measure);
  before.addEventListener("loadedmetadata", measure);
  after.addEventListener("play", () => { playButton.textContent = t("pausePlay"); });
  after.addEventListener("pause", () => { playButton.textContent = t("play"); align(); });
  after.addEventListener("seeked", () => { if (after.paused) align(); else before.currentTime = sourceTime(); });
  for (const video of [before, after]) video.addEventListener("error", () => { broken.hidden = false; });
  seek.addEventListener("input", () => { after.currentTime = Number(seek.value); show(); });
  line.addEventListener("click", (event) => { const area = line.getBoundingClientRect(); after.currentTime = length * (event.clientX - area.left) / area.width; });
  const drag = (event) => { const area = stage.getBoundingClientRect(); setBorder(100 * (event.clientX - area.left) / area.width); };
  stage.addEventListener("pointerdown", (event) => { if (!stage.classList.contains("slider")) return; stage.setPointerCapture(event.pointerId); drag(event); });
  stage.addEventListener("pointermove", (event) => { if (stage.hasPointerCapture(event.pointerId)) drag(event); });
  handle.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, PageDown: -10, PageUp: 10 }[event.key];
    const now = Number(handle.getAttribute("aria-valuenow"));
    if (by !== undefined) setBorder(now + by); else if (event.key === "Home") setBorder(0); else if (event.key === "End") setBorder(100); else return;
    event.preventDefault();
    event.stopPropagation();
  });
  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const on = event.target, typing = on.matches?.("input:not([type=range]), select, textarea");
    if (typing || (event.key === " " && on.matches?.("button, a, summary"))) return;
    const act = { " ": toggle, ",": () => step(-1), ".": () => step(1), "[": () => jump(-1), "]": () => jump(1), q: () => setSpeed(SPEEDS[(SPEEDS.indexOf(speed) + 1) % SPEEDS.length]) }[event.key]
      ?? (on.matches?.("input") ? undefined : { ArrowLeft: () => step(-1), ArrowRight: () => step(1) }[event.key])
      ?? (VIEWS["1234".indexOf(event.key)] ? () => setView(VIEWS["1234".indexOf(event.key)]) : undefined);
    if (act) { event.preventDefault(); act(); }
  }
  document.addEventListener("keydown", onKey);
  addEventListener("resize", fit);
  open = { job, stop: () => { running = false; document.removeEventListener("keydown", onKey); removeEventListener("resize", fit); for (const video of [before, after]) { video.pause(); video.removeAttribute("src"); video.load(); } } };
  follow();
  box.scrollIntoView({ block: "start" });
  $("viewer-title").focus({ preventScroll: true });
}
