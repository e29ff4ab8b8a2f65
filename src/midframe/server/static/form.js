// The choices for one video: rate or slow motion, options, preview, and what the server predicts of them.

import { ApiError, $, attempt, call, el, report, say } from "./base.js";
import { openMask } from "./mask.js";
import { bytes, duration, errorText, number, rateText, rateValue, t, timeValue } from "./words.js";

const STILLS = 8;
let source = null, page = null, plan = null, planNumber = 0;
let choices = fresh();

function fresh() {
  return { rate: "ratio:2", scene: "auto", dedup: "off", static: "auto", deinterlace: "auto", shutter: "0", maxSize: "", scale: "", speed: "", loop: false, model: null, crf: "16", codec: "auto", container: "mp4", audio: true, subtitles: true, slowAudio: false, useMask: false, from: "", to: "", start: 0, length: 3, more: false };
}

function kept(id) { try { return JSON.parse(sessionStorage.getItem(`choices ${id}`)) ?? {}; } catch { return {}; } } // choices outlive a reload

export function drawForm(ofSource, ofPage) {
  if (source?.id !== ofSource.id) { choices = { ...fresh(), ...kept(ofSource.id) }; plan = null; }
  source = ofSource;
  page = ofPage;
  choices.model ??= page.server.model;
  queueMicrotask(() => { drawPlan(); showPlan(); });
  return [drawRates(), drawPreview(), drawActions()];
}

// Each result once: where 2x of the source is one of the usual rates, one chip says both.
function chips() {
  const own = rateValue(source.info.rate), ntsc = String(source.info.rate).endsWith("/1001");
  const factors = [2, 4].map((n) => ({ value: `ratio:${n}`, fps: own * n, factor: n }));
  const usual = (ntsc ? ["48", "50", "60000/1001", "60", "120000/1001", "120"] : ["48", "50", "60", "120"])
    .map((rate) => ({ value: `fps:${rate}`, fps: rateValue(rate) }))
    .filter((chip) => chip.fps > own + 0.1 && !factors.some((other) => Math.abs(other.fps - chip.fps) < 0.0005));
  const rates = [...factors, ...usual].sort((a, b) => a.fps - b.fps);
  return [...rates.map((chip) => ({ ...chip, label: chip.factor ? `${number(chip.fps, 3)} · ${t("times", { n: chip.factor })}` : number(chip.fps, 3) })),
    ...[2, 4, 8].map((n) => ({ value: `slowmo:${n}`, label: t("slow", { n }) }))];
}

function drawRates() {
  const list = chips();
  const isChip = () => list.some((chip) => chip.value === choices.rate);
  const show = () => {
    for (const chip of group.children) { const on = chip.dataset.rate === choices.rate; chip.setAttribute("aria-checked", String(on)); chip.tabIndex = on || (!isChip() && chip === group.firstElementChild) ? 0 : -1; }
    own.classList.toggle("on", !isChip());
    slowAudio.hidden = !choices.rate.startsWith("slowmo");
  };
  const select = (value) => { choices.rate = value; own.querySelector("input").value = ""; show(); showPlan(); };
  const group = el("div", { class: "chips", role: "radiogroup", "aria-labelledby": "rate-title", onkeydown: (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const all = [...group.children], next = all[(all.indexOf(event.target) + by + all.length) % all.length];
    next.focus();
    select(next.dataset.rate);
  } }, list.map((chip) => el("button", { type: "button", role: "radio", "data-rate": chip.value, onclick: () => select(chip.value) }, chip.label)));
  const [kindNow, valueNow] = choices.rate.split(":");
  const take = () => { if (amount.value.trim()) { choices.rate = `${unit.value}:${amount.value.trim().replace(",", ".")}`; show(); showPlan(); } };
  const amount = el("input", { type: "text", inputmode: "decimal", class: "amount", "aria-label": t("otherRate"), autocomplete: "off", spellcheck: "false", placeholder: "90", value: isChip() ? "" : valueNow, oninput: take });
  const unit = el("select", { class: "unit", "aria-label": t("otherRate"), onchange: take },
    [["fps", "unitFps"], ["ratio", "unitTimes"], ["slowmo", "unitSlow"]].map(([value, word]) => el("option", { value, selected: !isChip() && value === kindNow }, t(word))));
  const own = el("div", { class: "own" }, amount, unit);
  const choice = (label, key, values) => el("label", {}, label, el("select", { name: key, onchange: (event) => { choices[key] = event.target.value; showPlan(); } }, values.map(([value, text]) => el("option", { value, selected: String(choices[key]) === value }, text))));
  const check = (label, key) => el("label", { class: "check" }, el("input", { type: "checkbox", name: key, checked: choices[key], onchange: (event) => { choices[key] = event.target.checked; showPlan(); } }), label);
  const time = (label, key, hint) => el("label", {}, label, el("input", { type: "text", name: key, value: choices[key], placeholder: hint, autocomplete: "off", oninput: (event) => { choices[key] = event.target.value; event.target.setAttribute("aria-invalid", String(Number.isNaN(timeValue(choices[key])))); showPlan(); drawActionsAgain(); } }));
  const slowAudio = check(t("slowAudio"), "slowAudio");
  const useMask = check(t("useMask"), "useMask");
  useMask.hidden = !source.mask;
  const saved = (has) => { choices.useMask = has; source.mask = has; page.redraw(); document.querySelector("button.mask")?.focus(); };
  const more = el("details", { class: "more", open: choices.more, ontoggle: (event) => { choices.more = event.target.open; } }, el("summary", {}, t("options")), el("div", { class: "options" },
    el("label", {}, t("quality"), el("input", { type: "number", name: "crf", min: "0", max: "63", step: "1", value: choices.crf, oninput: (event) => { choices.crf = event.target.value; showPlan(); } })),
    choice(t("format"), "codec", [["auto", t("formatAuto")], ["libx264", "H.264"], ["libx265", "H.265"], ["libsvtav1", "AV1"]]), choice(t("container"), "container", [["mp4", "MP4"], ["mkv", "MKV"]]),
    choice(t("model"), "model", page.server.models.map((name) => [name, name])),
    el("label", {}, t("speedRamp"), el("input", { type: "text", name: "speed", value: choices.speed, placeholder: "0-2:1, 2-4:0.25", autocomplete: "off", oninput: (event) => { choices.speed = event.target.value; showPlan(); } })),
    time(t("start"), "from", t("startHint")), time(t("end"), "to", t("endHint")),
    choice(t("cuts"), "scene", [["auto", t("cutsAuto")], ["off", t("cutsOff")]]), choice(t("dedup"), "dedup", [["off", t("dedupOff")], ["auto", t("dedupAuto")]]),
    choice(t("overlays"), "static", [["auto", t("staticAuto")], ["off", t("staticOff")]]), choice(t("deinterlace"), "deinterlace", [["auto", t("deinterlaceAuto")], ["off", t("deinterlaceOff")]]),
    choice(t("maxSize"), "maxSize", [["", t("maxSizeNone")], ...["1280", "1920", "2560", "3840"].map((side) => [side, t("pixels", { n: side })])]),
    el("label", {}, t("scale"), el("input", { type: "text", name: "scale", value: choices.scale, placeholder: "1280x720, 1280:-2", autocomplete: "off", spellcheck: "false", oninput: (event) => { choices.scale = event.target.value; showPlan(); } })),
    choice(t("shutter"), "shutter", [["0", t("shutterOff")], ["90", "90°"], ["180", t("shutterCinema")], ["270", "270°"], ["360", "360°"]]),
    check(t("keepAudio"), "audio"), check(t("keepSubtitles"), "subtitles"), check(t("seamless"), "loop"), slowAudio, useMask,
    el("button", { type: "button", class: "mask", onclick: () => openMask(source, choices.start, saved) }, t("paintMask"))));
  show();
  return el("section", { class: "step" }, el("h3", { id: "rate-title" }, t("rateTitle", { n: rateText(source.info.rate) })), el("div", { class: "rates" }, group, own),
    el("p", { id: "plan-error", class: "bad small", role: "alert", hidden: true }), el("dl", { id: "predict", class: "predict", "aria-live": "polite" }), el("p", { id: "basis", class: "soft small" }), more);
}

function drawPreview() {
  const total = Number(source.info.duration);
  const strip = el("div", { class: "strip", "aria-hidden": "true" });
  for (let i = 0; i < STILLS; i += 1) strip.append(el("img", { src: page.still(source, total * (i + 0.5) / STILLS, 240), alt: "", loading: "lazy", onerror: page.retryStill }));
  const windowBox = el("div", { class: "window" });
  strip.append(windowBox);
  const at = el("input", { type: "range", class: "at", min: "0", step: "0.1", "aria-label": t("previewAt") });
  const text = el("output", { class: "num" });
  const length = el("select", { "aria-label": t("previewLength"), onchange: () => { choices.length = Number(length.value); show(); keep(); } }, [2, 3, 4, 5].map((n) => el("option", { value: String(n), selected: choices.length === n }, t("seconds", { n }))));
  const show = () => {
    at.max = String(Math.max(0, total - choices.length).toFixed(1));
    choices.start = Math.min(choices.start, Number(at.max));
    at.value = String(choices.start);
    windowBox.style.left = `${100 * choices.start / total}%`;
    windowBox.style.width = `${Math.min(100, 100 * choices.length / total)}%`;
    text.textContent = t("seconds", { n: `${number(choices.start, 1)} – ${number(Math.min(total, choices.start + choices.length), 1)}` });
    at.setAttribute("aria-valuetext", text.textContent);
  };
  at.addEventListener("input", () => { choices.start = Number(at.value); show(); keep(); });
  strip.addEventListener("click", (event) => { const area = strip.getBoundingClientRect(); choices.start = Math.max(0, total * (event.clientX - area.left) / area.width - choices.length / 2); show(); keep(); });
  show();
  return el("section", { class: "step" }, el("h3", {}, t("previewTitle")), strip, el("div", { class: "pick" }, at, text, length));
}

function drawActions() {
  const run = (kind) => attempt(async () => {
    page.takeJob(await call("POST", "/jobs", { source: source.id, kind, options: options(), preview_start: choices.start, preview_seconds: choices.length }));
    $("jobs").scrollIntoView({ block: "nearest" });
  });
  return el("div", { class: "actions" }, el("button", { type: "button", class: "main preview", onclick: () => run("preview") }, t("preview")), el("button", { type: "button", class: "whole", onclick: () => run("full") }, wholeText()),
    el("button", { type: "button", class: "copy", onclick: openCopy }, t("copy")), page.removeButton(source));
}

function wholeText() { return t(timeValue(choices.from) || timeValue(choices.to) ? "wholePart" : "whole"); }
function drawActionsAgain() { const button = document.querySelector("button.whole"); if (button) button.textContent = wholeText(); }

function options() {
  const [kind, value] = choices.rate.split(":");
  const given = { [kind]: value, scene: choices.scene, dedup: choices.dedup, static: choices.static, deinterlace: choices.deinterlace, model: choices.model, codec: choices.codec, container: choices.container, audio: choices.audio, subtitles: choices.subtitles };
  if (choices.crf !== "" && choices.crf !== "16") given.crf = Number(choices.crf);
  if (choices.shutter !== "0") given.shutter = choices.shutter;
  if (choices.maxSize) given.max_size = Number(choices.maxSize);
  if (choices.scale.trim()) given.scale = choices.scale.trim();
  if (choices.loop) given.loop = true;
  if (choices.speed.trim()) { // it changes the pace itself, so a factor becomes the rate that it gives
    given.speed = choices.speed.trim();
    if (kind !== "fps") delete given[kind];
    if (kind === "ratio") { const [a, b] = String(source.info.rate).split("/"); given.fps = Number.isInteger(a * value) ? `${a * value}${b ? `/${b}` : ""}` : String(Math.round(rateValue(source.info.rate) * rateValue(value) * 1000) / 1000); }
  }
  if (kind === "slowmo" && choices.slowAudio) given.slow_audio = "stretch";
  if (choices.useMask && source.mask) given.use_mask = true;
  for (const [name, text] of [["start", choices.from], ["end", choices.to]]) { const seconds = timeValue(text); if (seconds) given[name] = seconds; }
  return given;
}

function keep() { try { sessionStorage.setItem(`choices ${source.id}`, JSON.stringify(choices)); } catch { /* private window */ } }

// Ask what the choices would give, and show it; a choice that is not possible says why beside the choices.
export async function showPlan() {
  if (!source) return;
  const mine = planNumber += 1, asked = source.id;
  keep();
  const wrongTime = [choices.from, choices.to].some((text) => Number.isNaN(timeValue(text)));
  try {
    if (wrongTime) throw new ApiError(422, { code: "time", message: t("timeWrong") });
    if (!/^\w+:\d{1,7}(\.\d{1,6}|\/\d{1,7})?$/.test(choices.rate)) throw new ApiError(422, { code: "rate", message: t("rateWrong") });
    if (choices.scale.trim() && !/^-?\d{1,5}[x:]-?\d{1,5}$/.test(choices.scale.trim())) throw new ApiError(422, { code: "scale", message: t("scaleWrong") });
    const answer = await call("POST", "/plans", { source: asked, options: options() });
    if (mine !== planNumber || asked !== source.id) return;
    plan = answer;
    problem(null);
  } catch (error) {
    if (mine !== planNumber) return;
    if (error instanceof ApiError && error.status === 422) problem(errorText(error)); else report(error);
    return;
  }
  drawPlan();
}

function problem(text) {
  const box = $("plan-error");
  if (!box) return;
  box.hidden = !text;
  box.textContent = text ?? "";
  $("predict").classList.toggle("stale", Boolean(text));
  for (const button of document.querySelectorAll("#video .actions .main, #video .actions .whole, #video .actions .copy")) button.disabled = Boolean(text);
}

function drawPlan() {
  const box = $("predict");
  if (!box || !plan) return;
  const fact = (name, value) => el("div", {}, el("dt", {}, name), el("dd", {}, ...[value].flat()));
  box.replaceChildren(fact(t("predictFrames"), number(plan.frames)), fact(t("predictRate"), [t("fps", { n: rateText(plan.rate) }), ", ", el("span", {}, duration(plan.duration))]), fact(t("predictSize"), bytes(plan.bytes)),
    fact(t("predictTime"), plan.work_seconds === null ? t("unknownTime") : duration(plan.work_seconds)));
  $("basis").textContent = t({ "this video": "basisVideo", "other videos": "basisOther", nothing: "basisNothing" }[plan.basis]);
}

async function openCopy() {
  await showPlan(); // the command must be that of the choices as they are now
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
