// Before and after beside each other, in step. The after film leads; the before film, slower or longer shown pictures and
// all, follows at the instant of the source that is shown.

import { API, $, call, el, say, svg } from "./base.js";
import { clock, number, rateText, rateValue, t } from "./words.js";

const VIEWS = ["slider", "side", "difference", "after-only"];
const VIEW_WORDS = { slider: "slider", side: "side", difference: "difference", "after-only": "afterOnly" };
const SPEEDS = [1, 0.5, 0.25];
const SLOWEST = 0.0625; // browsers refuse a lower playbackRate
const CHROME = 236; // pixels of the viewer above and below the picture, so that all of it is seen at once
let open = null;
let look = { view: "slider", speed: 1 }; // kept from one comparison to the next

export function viewed() { return open?.job.id ?? null; }

export function closeViewer() {
  if (!open) return;
  open.stop();
  open = null;
  $("viewer").hidden = true;
  $("viewer").replaceChildren();
}

// Where the comparison stands, for one that takes its place; seconds of the result.
export function place() { return open?.after.currentTime ?? 0; }

export async function openViewer(job, onClose, at = 0) {
  closeViewer();
  const box = $("viewer");
  const marks = await call("GET", `/jobs/${job.id}/marks`).catch(() => ({ cuts: [], holds: [], duplicates: [], low_confidence: [] }));
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
  const viewButtons = VIEWS.map((view) => el("button", { "data-view": view, onclick: () => setView(view) }, t(VIEW_WORDS[view])));
  const speedButtons = SPEEDS.map((speed) => el("button", { "data-speed": speed, onclick: () => setSpeed(speed) }, t({ 1: "normal", 0.5: "half", 0.25: "quarter" }[speed])));
  const clockText = el("span", { class: "clock" }), sure = el("span", { class: "sure" });
  const certaintyText = (certainty) => t("certain", { n: number(100 * certainty, 1) });
  const line = svg("svg", { preserveAspectRatio: "none", "aria-hidden": "true" });
  const track = el("div", { class: "track", role: "slider", tabindex: "0", "aria-label": t("seek"), "aria-valuemin": "1" }, line);
  const playhead = svg("rect", { class: "now", x: 0, y: 0, width: 2, height: 28 });
  const controls = el("div", { class: "controls" },
    playButton,
    el("div", { class: "group" }, el("button", { class: "back", "aria-label": t("back"), title: t("back"), onclick: () => step(-1) }, "◂▮"), el("button", { class: "forward", "aria-label": t("forward"), title: t("forward"), onclick: () => step(1) }, "▮▸")),
    el("div", { class: "group", role: "group" }, speedButtons),
    el("div", { class: "group", role: "group" }, viewButtons));
  const rank = [...marks.low_confidence].sort((a, b) => a[1] - b[1]); // the least certain first
  const frameOf = (seconds) => Math.round(seconds * rate);
  const starts = { cut: marks.cuts, hold: marks.holds.map((s) => s[0]), dup: marks.duplicates.map((s) => s[0]), doubt: marks.low_confidence.map((s) => s[0]) };
  const entry = (name, word, jump, title) => starts[name].length ? el("li", {}, el("button", { class: `quiet to-${name}`, title, onclick: jump }, el("i", { class: name }), t(word, { n: number(starts[name].length) }))) : null;
  const legend = el("ul", { class: "legend" },
    entry("cut", "nCuts", () => jumpIn(starts.cut)), entry("hold", "nHolds", () => jumpIn(starts.hold)), entry("dup", "nDups", () => jumpIn(starts.dup)),
    entry("doubt", "nDoubts", () => jumpDoubt(1), t("doubtsHelp")),
    Object.values(starts).some((all) => all.length) ? null : el("li", {}, t("nothingMarked")));
  const keyHelp = el("p", { class: "keys" });
  t("keys").split(/<(.*?)>/).forEach((part, i) => keyHelp.append(i % 2 ? el("kbd", {}, part) : part));
  box.replaceChildren(
    el("div", { class: "viewer-head" }, el("h2", { id: "viewer-title", tabindex: "-1" }, job.output_name),
      el("a", { class: "button main download", href: url("result"), download: job.output_name }, t("download")),
      el("button", { class: "close", onclick: () => { closeViewer(); onClose(); } }, t("close"))),
    stage, broken, controls, el("div", { class: "timeline" }, track, el("div", { class: "under" }, legend, el("span", { class: "where" }, sure, clockText))), keyHelp);
  if (job.warnings.length) box.append(el("ul", { class: "notes" }, job.warnings.map((text) => el("li", {}, text))));
  box.hidden = false;

  let speed = look.speed, length = 0, frames = 0, running = true, wantsPlay = false;

  const last = () => Math.max(0, frames - 1);
  const frameNow = () => Math.min(last(), Math.floor(after.currentTime * rate + 0.01));

  function measure() {
    if (!after.videoWidth || !before.videoWidth) return;
    length = after.duration;
    frames = Math.max(1, Math.round(length * rate));
    track.setAttribute("aria-valuemax", String(frames));
    fit();
    show();
    if (at) after.currentTime = at; else box.scrollIntoView({ block: "start" }); // now that the stage has its size
  }

  function drawMarks() { // in pixels, so that a thin mark is as wide on a phone
    const width = track.clientWidth, x = (seconds) => width * seconds / length;
    const rect = (name, from, to, y, height) => svg("rect", { class: name, x: Math.min(from, width - 3), y, width: Math.max(3, to - from), height });
    const span = (name) => ([from, to]) => rect(name, x(from), x(to), 3, 9);
    const depth = (certainty) => Math.min(20, 10 + 50 * (1 - certainty)); // a fifth of the picture in doubt fills the lane
    line.setAttribute("viewBox", `0 0 ${width} 28`);
    line.replaceChildren(...marks.duplicates.map(span("dup")), ...marks.holds.map(span("hold")), ...marks.cuts.map((at) => rect("cut", x(at) - 1, x(at) + 2, 0, 28)),
      ...marks.low_confidence.map(([at, certainty]) => rect("doubt", x(at + 0.5 / rate) - 1.5, 0, 28 - depth(certainty), depth(certainty))), playhead);
  }

  function fit() { // the stage is exactly as large as the picture, so that the slider's border is where it seems to be
    const side = stage.classList.contains("side"), stacked = matchMedia("(max-width: 640px)").matches;
    const ratio = after.videoWidth / after.videoHeight * (side ? (stacked ? 0.5 : 2) : 1);
    stage.style.aspectRatio = String(ratio);
    stage.style.width = `min(100%, ${(Math.max(240, innerHeight - CHROME) * ratio).toFixed()}px)`;
    if (length) drawMarks();
  }

  function show() {
    playhead.setAttribute("x", String(track.clientWidth * after.currentTime / (length || 1)));
    const doubted = after.paused ? marks.low_confidence.find(([at]) => frameOf(at) === frameNow()) : undefined;
    sure.textContent = doubted ? certaintyText(doubted[1]) : "";
    track.setAttribute("aria-valuenow", String(frameNow() + 1));
    clockText.textContent = `${clock(after.currentTime)} · ${t("frameOf", { a: number(frameNow() + 1), b: number(frames) })}`;
    track.setAttribute("aria-valuetext", clockText.textContent);
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
    speed = look.speed = next;
    after.playbackRate = speed;
    for (const button of speedButtons) button.setAttribute("aria-pressed", String(Number(button.dataset.speed) === speed));
  }
  function setView(view) {
    look.view = view;
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
    const all = Object.values(starts).flat().map(frameOf).sort((a, b) => a - b), here = frameNow();
    const next = direction > 0 ? all.find((n) => n > here) : all.findLast((n) => n < here);
    if (next !== undefined) goTo(next);
  }
  function jumpIn(seconds) { // the next of a kind, and from the last to the first
    const all = seconds.map(frameOf), here = frameNow();
    goTo(all.find((n) => n > here) ?? all[0]);
  }
  let doubt = -1;
  function jumpDoubt(by) { // from the least certain to the less doubtful, and around
    if (!rank.length) return;
    doubt = doubt < 0 && by < 0 ? rank.length - 1 : (doubt + by + rank.length) % rank.length;
    goTo(frameOf(rank[doubt][0]));
    say(`${t("doubtOf", { a: doubt + 1, b: rank.length })}, ${certaintyText(rank[doubt][1])}`);
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
  const seekTo = (event, snap) => { // a mark is thin: what is pressed beside it is meant for it
    const area = track.getBoundingClientRect(), at = length * Math.max(0, Math.min(1, (event.clientX - area.left) / area.width)), near = 6 * length / area.width;
    const [best] = Object.values(starts).flat().filter((s) => snap && Math.abs(s - at) <= near).sort((a, b) => Math.abs(a - at) - Math.abs(b - at));
    goTo(best === undefined ? Math.floor(at * rate) : frameOf(best));
  };
  track.addEventListener("pointerdown", (event) => { track.setPointerCapture(event.pointerId); seekTo(event, true); });
  track.addEventListener("pointermove", (event) => { if (track.hasPointerCapture(event.pointerId)) seekTo(event, false); });
  track.addEventListener("keydown", (event) => { // arrows step by a frame, as everywhere in the viewer
    const to = { Home: 0, End: last(), PageUp: frameNow() + Math.round(rate), PageDown: frameNow() - Math.round(rate), ArrowUp: frameNow() + 1, ArrowDown: frameNow() - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    goTo(to);
  });
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
    const act = { " ": toggle, ",": () => step(-1), ".": () => step(1), "[": () => jump(-1), "]": () => jump(1), d: () => jumpDoubt(1), D: () => jumpDoubt(-1), q: () => setSpeed(SPEEDS[(SPEEDS.indexOf(speed) + 1) % SPEEDS.length]) }[event.key]
      ?? (on.matches?.("input") ? undefined : { ArrowLeft: () => step(-1), ArrowRight: () => step(1) }[event.key])
      ?? (VIEWS["1234".indexOf(event.key)] ? () => setView(VIEWS["1234".indexOf(event.key)]) : undefined);
    if (act) { event.preventDefault(); act(); }
  }
  document.addEventListener("keydown", onKey);
  addEventListener("resize", fit);
  open = { job, after, stop: () => { running = false; document.removeEventListener("keydown", onKey); removeEventListener("resize", fit); for (const video of [before, after]) { video.pause(); video.removeAttribute("src"); video.load(); } } };
  setView(look.view);
  setSpeed(look.speed);
  follow();
  $("viewer-title").focus({ preventScroll: true });
}
