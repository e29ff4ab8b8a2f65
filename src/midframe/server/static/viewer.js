// Before and after beside each other, in step: zoomed and moved together, looped, switched by a key. The after video leads;
// the before video follows at the instant of the source that is shown.

import { API, $, call, el, say, svg } from "./base.js";
import { clock, number, rateText, rateValue, t } from "./words.js";
import { Zoom } from "./zoom.js";

const VIEWS = ["slider", "side", "difference", "ab"];
const SPEEDS = [1, 0.5, 0.25];
const SLOWEST = 0.0625; // browsers refuse a lower playbackRate
const CHROME = 260; // pixels of the viewer above and below the frame, so that all of it is seen at once
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
  const marks = await call("GET", `/jobs/${job.id}/marks`).catch(() => ({ cuts: [], holds: [], duplicates: [], low_confidence: [], source_times: [] }));
  const factor = job.options.slowmo ? rateValue(job.options.slowmo) : 1;
  const source = job.source_rate, rate = rateValue(job.rate);
  const url = (kind) => `${API}/jobs/${job.id}/files/${kind}`;
  const video = (kind, muted) => el("video", { src: url(kind), preload: "auto", playsinline: true, muted, tabindex: "-1", "data-kind": kind });
  const before = video("before", true), after = video("after", true); // muted, or no browser starts it by itself
  const spots = [], layer = (name, content, label) => {
    const spot = el("div", { class: "spot", hidden: true }, el("i")); // where to look in a frame of low confidence
    spots.push(spot);
    return el("div", { class: `layer ${name}` }, content, spot, el("span", { class: "tag" }, label));
  };
  const handle = el("div", { class: "handle", role: "slider", tabindex: "0", "aria-label": t("sliderLabel"), "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": "50" });
  const stage = el("div", { class: "stage slider" }, layer("before", before, t("before", { r: rateText(source) })), layer("after", after, t("after", { r: rateText(job.rate) })), handle);
  const broken = el("p", { class: "bad", hidden: true }, t("cannotPlay"));
  const button = (className, word, action, text) => el("button", { type: "button", class: className, "aria-label": t(word), title: t(word), onclick: action }, text);
  const playButton = el("button", { type: "button", class: "main play", onclick: () => toggle() }, t("play"));
  const viewButtons = VIEWS.map((view) => el("button", { type: "button", "data-view": view, onclick: () => setView(view) }, t(view)));
  const speedButtons = SPEEDS.map((speed) => el("button", { type: "button", "data-speed": speed, onclick: () => setSpeed(speed) }, t({ 1: "normal", 0.5: "half", 0.25: "quarter" }[speed])));
  const loopButtons = [button("loop-in", "loopIn", () => setLoop("from"), t("loopFrom")), button("loop-out", "loopOut", () => setLoop("to"), t("loopTo")), button("loop-clear", "loopClear", () => clearLoop(), t("loopOff"))];
  const zoomText = el("span", { class: "zoom-now num" }, "1×");
  const zoomButtons = [button("zoom-out", "zoomOut", () => zoom.by(1 / 1.5), "−"), button("zoom-reset", "zoomReset", () => zoom.reset(), zoomText), button("zoom-in", "zoomIn", () => zoom.by(1.5), "+")];
  const clockText = el("span", { class: "clock" }), agrees = el("span", { class: "sure" }), loopText = el("span", { class: "loop-now" });
  const hint = el("p", { class: "check-hint", hidden: true });
  const agreement = (confidence) => // a score: one half where 1 % of the frame disagrees (result.confidence_score)
    t("certain", { n: number(100 * confidence, 1) });
  const line = svg("svg", { preserveAspectRatio: "none", "aria-hidden": "true" });
  const track = el("div", { class: "track", role: "slider", tabindex: "0", "aria-label": t("seek"), "aria-valuemin": "1" }, line);
  const playhead = svg("rect", { class: "now", x: 0, y: 0, width: 2, height: 28 });
  const group = (...children) => el("div", { class: "group", role: "group" }, children);
  const controls = el("div", { class: "controls" }, playButton,
    group(button("back", "back", () => step(-1), "◂▮"), button("forward", "forward", () => step(1), "▮▸")), group(speedButtons), group(viewButtons), group(zoomButtons), group(loopButtons),
    button("full quiet icon", "fullScreen", () => fullScreen(), svg("svg", { viewBox: "0 0 24 24", width: 20, height: 20, "aria-hidden": "true" }, svg("path", { d: "M4 4h6v2H6v4H4zm10 0h6v6h-2V6h-4zM4 14h2v4h4v2H4zm14 0h2v6h-6v-2h4z" }))));
  const rank = [...marks.low_confidence].sort((a, b) => a[1] - b[1]); // the least confidence first
  const frameOf = (seconds) => Math.round(seconds * rate);
  const starts = { cut: marks.cuts, hold: marks.holds.map((s) => s[0]), dup: marks.duplicates.map((s) => s[0]), low: marks.low_confidence.map((s) => s[0]) };
  const entry = (name, word, jump, title) => starts[name].length ? el("li", {}, el("button", { type: "button", class: `quiet to-${name}`, title, onclick: jump }, el("i", { class: name }), t(word, { n: number(starts[name].length) }))) : null;
  const legend = el("ul", { class: "legend" },
    entry("cut", "nCuts", () => jumpIn(starts.cut)), entry("hold", "nHolds", () => jumpIn(starts.hold)), entry("dup", "nDups", () => jumpIn(starts.dup)),
    entry("low", "nLow", () => jumpLow(1), t("lowHelp")),
    Object.values(starts).some((all) => all.length) ? null : el("li", {}, t("nothingMarked")));
  const keyHelp = el("p", { class: "keys" });
  t("keys").split(/<(.*?)>/).forEach((part, i) => keyHelp.append(i % 2 ? el("kbd", {}, part) : part));
  const theatre = el("div", { class: "theatre" }, stage, broken, controls, el("div", { class: "timeline" }, track, el("div", { class: "under" }, legend, el("span", { class: "where" }, loopText, agrees, clockText))), hint);
  box.replaceChildren(
    el("div", { class: "viewer-head" }, el("h2", { id: "viewer-title", tabindex: "-1" }, job.output_name),
      el("a", { class: "button main download", href: url("result"), download: job.output_name }, t("download")),
      el("button", { type: "button", class: "close", onclick: () => { closeViewer(); onClose(); } }, t("close"))),
    theatre, keyHelp);
  if (job.warnings.length) box.append(el("ul", { class: "notes" }, job.warnings.map((text) => el("li", {}, text))));
  box.hidden = false;

  let speed = look.speed, length = 0, frames = 0, running = true, showBefore = false;
  const loop = { from: null, to: null }; // frames, both within the loop

  const last = () => Math.max(0, frames - 1);
  const frameNow = () => Math.min(last(), Math.floor(after.currentTime * rate + 0.01));
  const zoom = new Zoom(stage, [before, after], spots, (scale) => { stage.style.setProperty("--zoom", String(scale)); zoomText.textContent = `${number(scale, 1)}×`; stage.classList.toggle("zoomed", scale > 1); });

  function measure() {
    if (!after.videoWidth || !before.videoWidth || frames) return;
    length = after.duration;
    frames = Math.max(1, Math.round(length * rate));
    track.setAttribute("aria-valuemax", String(frames));
    fit();
    show();
    if (at) after.currentTime = at; else { box.scrollIntoView({ block: "start" }); play(); } // now that the stage has its size
  }

  function drawMarks() { // in pixels, so that a thin mark is as wide on a phone
    const width = track.clientWidth, x = (seconds) => width * seconds / length;
    const rect = (name, from, to, y, height) => svg("rect", { class: name, x: Math.min(from, width - 3), y, width: Math.max(3, to - from), height });
    const span = (name) => ([from, to]) => rect(name, x(from), x(to), 3, 9);
    const depth = (confidence) => 8 + 12 * Math.max(0, 1 - 3 * confidence); // the list holds confidences of 0 to 1/3
    const looped = loop.from === null && loop.to === null ? [] : [svg("rect", { class: "looped", x: x((loop.from ?? 0) / rate), y: 0, width: Math.max(3, x(((loop.to ?? last()) + 1 - (loop.from ?? 0)) / rate)), height: 28 })];
    line.setAttribute("viewBox", `0 0 ${width} 28`);
    line.replaceChildren(...looped, ...marks.duplicates.map(span("dup")), ...marks.holds.map(span("hold")), ...marks.cuts.map((s) => rect("cut", x(s) - 1, x(s) + 2, 0, 28)),
      ...marks.low_confidence.map(([s, confidence]) => rect("low", x(s + 0.5 / rate) - 1.5, 0, 28 - depth(confidence), depth(confidence))), playhead);
  }

  function fit() { // the stage is exactly as large as the frame, so that the slider's border is where it seems to be
    const side = stage.classList.contains("side"), stacked = matchMedia("(max-width: 640px)").matches, full = document.fullscreenElement === theatre;
    const ratio = after.videoWidth / after.videoHeight * (side ? (stacked ? 0.5 : 2) : 1);
    stage.style.aspectRatio = String(ratio);
    stage.style.width = `min(100%, ${(Math.max(240, innerHeight - (full ? 150 : CHROME)) * ratio).toFixed()}px)`;
    zoom.apply();
    if (length) drawMarks();
  }

  function show() {
    playhead.setAttribute("x", String(track.clientWidth * after.currentTime / (length || 1)));
    const low = after.paused ? marks.low_confidence.find(([s]) => frameOf(s) === frameNow()) : undefined;
    agrees.textContent = low ? agreement(low[1]) : "";
    const region = low && marks.regions?.[marks.low_confidence.indexOf(low)];
    for (const spot of spots) {
      spot.hidden = !region;
      if (region) spot.firstChild.style.inset = `${[region[1], 1 - region[2], 1 - region[3], region[0]].map((share) => `${(100 * share).toFixed(2)}%`).join(" ")}`;
    }
    hint.hidden = !low;
    if (low) hint.textContent = t(region ? "checkRegion" : "checkHelp", { n: number(1 / low[1] - 1, 1) });
    track.setAttribute("aria-valuenow", String(frameNow() + 1));
    clockText.textContent = `${clock(after.currentTime)} · ${t("frameOf", { a: number(frameNow() + 1), b: number(frames) })}`;
    track.setAttribute("aria-valuetext", clockText.textContent);
  }

  const ramps = marks.source_times ?? []; // instants of result and source that belong together, where the speed changes
  const mapped = (at) => { // and the pace there
    if (ramps.length < 2) return [at / factor, 1 / factor];
    const next = Math.max(1, ramps.findIndex(([out]) => out >= at)), [[o0, s0], [o1, s1]] = [ramps[next - 1], ramps[next]], pace = (s1 - s0) / (o1 - o0);
    return [s0 + (at - o0) * pace, pace];
  };
  const sourceTime = () => Math.min(mapped(after.currentTime)[0], Math.max(0, before.duration - 0.001));

  function follow() {
    if (!running) return;
    if (!after.paused) {
      if (loop.to !== null && after.currentTime >= (loop.to + 1) / rate - 0.001) after.currentTime = ((loop.from ?? 0) + 0.5) / rate;
      else if (loop.from !== null && after.currentTime < loop.from / rate - 0.05) after.currentTime = (loop.from + 0.5) / rate;
      const target = sourceTime(), behind = target - before.currentTime, pace = speed * mapped(after.currentTime)[1];
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
    for (const one of speedButtons) one.setAttribute("aria-pressed", String(Number(one.dataset.speed) === speed));
  }
  function setView(view) {
    look.view = view;
    stage.classList.remove(...VIEWS, "show-before");
    stage.classList.add(view);
    showBefore = false;
    for (const one of viewButtons) one.setAttribute("aria-pressed", String(one.dataset.view === view));
    fit();
  }
  function switchAB() {
    if (look.view !== "ab") setView("ab");
    showBefore = !showBefore;
    stage.classList.toggle("show-before", showBefore);
    say(t("showing", { which: t(showBefore ? "beforeShort" : "afterShort") }));
  }
  function play() {
    if (after.ended || after.currentTime > length - 0.5 / rate) after.currentTime = 0;
    after.playbackRate = speed;
    after.play().catch(() => {});
  }
  function toggle() { if (after.paused) { after.muted = false; play(); } else after.pause(); }
  function setLoop(end) {
    loop[end] = frameNow();
    if (loop.from !== null && loop.to !== null && loop.from > loop.to) loop[end === "from" ? "to" : "from"] = null;
    loopText.textContent = t("loopSet", { a: clock((loop.from ?? 0) / rate), b: clock(((loop.to ?? last()) + 1) / rate) });
    say(loopText.textContent);
    drawMarks();
  }
  function clearLoop() { loop.from = loop.to = null; loopText.textContent = ""; drawMarks(); }
  function fullScreen() { if (document.fullscreenElement) document.exitFullscreen(); else theatre.requestFullscreen?.().catch(() => {}); }
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
  let low = -1;
  function jumpLow(by) { // from the worst to the more certain, and around
    if (!rank.length) return;
    low = low < 0 && by < 0 ? rank.length - 1 : (low + by + rank.length) % rank.length;
    goTo(frameOf(rank[low][0]));
    say(`${t("lowOf", { a: low + 1, b: rank.length })}, ${agreement(rank[low][1])}`);
  }
  function setBorder(percent) {
    const to = Math.max(0, Math.min(100, percent));
    stage.style.setProperty("--at", `${to}%`);
    handle.setAttribute("aria-valuenow", String(Math.round(to)));
  }

  after.loop = true;
  after.addEventListener("loadedmetadata", measure);
  before.addEventListener("loadedmetadata", measure);
  after.addEventListener("play", () => { playButton.textContent = t("pausePlay"); });
  after.addEventListener("pause", () => { playButton.textContent = t("play"); align(); });
  after.addEventListener("seeked", () => { if (after.paused) align(); else before.currentTime = sourceTime(); });
  for (const one of [before, after]) one.addEventListener("error", () => { broken.hidden = false; });
  const seekTo = (event, snap) => { // a mark is thin: a press beside it is meant for it
    const area = track.getBoundingClientRect(), to = length * Math.max(0, Math.min(1, (event.clientX - area.left) / area.width)), near = 6 * length / area.width;
    const [best] = Object.values(starts).flat().filter((s) => snap && Math.abs(s - to) <= near).sort((a, b) => Math.abs(a - to) - Math.abs(b - to));
    goTo(best === undefined ? Math.floor(to * rate) : frameOf(best));
  };
  track.addEventListener("pointerdown", (event) => { track.setPointerCapture(event.pointerId); seekTo(event, true); });
  track.addEventListener("pointermove", (event) => { if (track.hasPointerCapture(event.pointerId)) seekTo(event, false); });
  track.addEventListener("keydown", (event) => { // arrows step by a frame, as everywhere in the viewer
    const to = { Home: 0, End: last(), PageUp: frameNow() + Math.round(rate), PageDown: frameNow() - Math.round(rate), ArrowUp: frameNow() + 1, ArrowDown: frameNow() - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    goTo(to);
  });
  // The border follows its handle always, and the frame where that cannot be moved, being shown as a whole.
  const dragBorder = (event) => { const area = stage.getBoundingClientRect(); setBorder(100 * (event.clientX - area.left) / area.width); };
  let dragging = false;
  stage.addEventListener("pointerdown", (event) => {
    zoom.down(event);
    dragging = look.view === "slider" && zoom.pointers.size === 1 && (handle.contains(event.target) || zoom.scale === 1);
    if (dragging) { stage.setPointerCapture(event.pointerId); dragBorder(event); }
  });
  stage.addEventListener("pointermove", (event) => { if (!dragging) zoom.move(event); else if (stage.hasPointerCapture(event.pointerId)) { dragBorder(event); zoom.note(event); } });
  stage.addEventListener("click", () => { if (look.view === "ab" && zoom.scale === 1) switchAB(); });
  for (const kind of ["pointerup", "pointercancel"]) stage.addEventListener(kind, (event) => { dragging = false; zoom.up(event); });
  handle.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, PageDown: -10, PageUp: 10 }[event.key];
    const now = Number(handle.getAttribute("aria-valuenow"));
    if (by !== undefined) setBorder(now + by); else if (event.key === "Home") setBorder(0); else if (event.key === "End") setBorder(100); else return;
    event.preventDefault();
    event.stopPropagation();
  });
  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const on = event.target, typing = on.matches?.("input:not([type=range]):not([type=checkbox]), select, textarea");
    if (typing || (event.key === " " && on.matches?.("button, a, summary, input"))) return;
    const act = { " ": toggle, ",": () => step(-1), ".": () => step(1), "[": () => jump(-1), "]": () => jump(1), d: () => jumpLow(1), D: () => jumpLow(-1), a: switchAB, i: () => setLoop("from"), o: () => setLoop("to"), p: clearLoop, f: fullScreen,
      "+": () => zoom.by(1.5), "=": () => zoom.by(1.5), "-": () => zoom.by(1 / 1.5), "−": () => zoom.by(1 / 1.5), 0: () => zoom.reset(), q: () => setSpeed(SPEEDS[(SPEEDS.indexOf(speed) + 1) % SPEEDS.length]) }[event.key]
      ?? (on.matches?.("input, [role=radio], .grip") ? undefined : { ArrowLeft: () => step(-1), ArrowRight: () => step(1) }[event.key])
      ?? (VIEWS["1234".indexOf(event.key)] ? () => setView(VIEWS["1234".indexOf(event.key)]) : undefined);
    if (act) { event.preventDefault(); act(); }
  }
  document.addEventListener("keydown", onKey);
  document.addEventListener("fullscreenchange", fit);
  addEventListener("resize", fit);
  open = { job, after, stop: () => { running = false; document.removeEventListener("keydown", onKey); document.removeEventListener("fullscreenchange", fit); removeEventListener("resize", fit); for (const one of [before, after]) { one.pause(); one.removeAttribute("src"); one.load(); } } };
  setView(VIEWS.includes(look.view) ? look.view : "slider");
  setSpeed(look.speed);
  follow();
  $("viewer-title").focus({ preventScroll: true });
}
