// Painting the overlay mask over a frame of the video: white stays still. Saved as a PNG of the frame size.

import { API, $, call, el, say } from "./base.js";
import { t } from "./words.js";

const REGIONS = { topLeft: [0.03, 0.03, 0.25, 0.15], topRight: [0.72, 0.03, 0.25, 0.15], bottomLeft: [0.03, 0.82, 0.25, 0.15], bottomRight: [0.72, 0.82, 0.25, 0.15], bottomStrip: [0.1, 0.8, 0.8, 0.17] };

export function openMask(source, at, onSaved) {
  const dialog = $("mask-dialog"), { width, height } = source.info;
  const canvas = el("canvas", { width, height, "aria-label": t("maskHelp"), role: "img" });
  const context = canvas.getContext("2d");
  const behind = el("img", { alt: "", src: `${API}/sources/${source.id}/still?at=${at}&width=1280&upright=false` });
  const brush = el("input", { type: "range", min: "1", max: "20", value: "5", "aria-label": t("brush") });
  let erase = false, lastPoint = null;
  // the colour shown is the colour painted; saving makes it white on black
  const style = () => { context.globalCompositeOperation = erase ? "destination-out" : "source-over"; context.fillStyle = context.strokeStyle = "rgb(255 64 160)"; context.lineCap = context.lineJoin = "round"; };
  const point = (event) => { const area = canvas.getBoundingClientRect(); return [(event.clientX - area.left) * width / area.width, (event.clientY - area.top) * height / area.height]; };
  const stroke = (event) => {
    style();
    const [x, y] = point(event), size = Number(brush.value) / 100 * width;
    context.lineWidth = size;
    context.beginPath();
    context.moveTo(...(lastPoint ?? [x, y]));
    context.lineTo(x + 0.01, y);
    context.stroke();
    lastPoint = [x, y];
  };
  for (const layer of [behind, canvas]) { layer.style.aspectRatio = `${width} / ${height}`; layer.style.width = `min(100%, ${(60 * width / height).toFixed(2)}vh)`; }
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); lastPoint = null; stroke(event); });
  canvas.addEventListener("pointermove", (event) => { if (canvas.hasPointerCapture(event.pointerId)) stroke(event); });
  const mode = (label, value) => el("button", { type: "button", "aria-pressed": String(erase === value), onclick: (event) => { erase = value; for (const b of event.target.parentElement.children) b.setAttribute("aria-pressed", String(b === event.target)); } }, t(label));
  const region = (name) => el("button", { type: "button", onclick: () => { style(); const [x, y, w, h] = REGIONS[name]; context.fillRect(x * width, y * height, w * width, h * height); } }, t(name));
  const save = async () => {
    const out = el("canvas", { width, height }), ink = out.getContext("2d");
    ink.drawImage(canvas, 0, 0);
    ink.globalCompositeOperation = "source-in";
    ink.fillStyle = "#fff";
    ink.fillRect(0, 0, width, height);
    ink.globalCompositeOperation = "destination-over";
    ink.fillStyle = "#000";
    ink.fillRect(0, 0, width, height);
    const blob = await new Promise((done) => out.toBlob(done, "image/png"));
    await call("PUT", `/sources/${source.id}/mask`, blob);
    dialog.close();
    say(t("maskSaved"));
    onSaved(true);
  };
  const remove = async () => { await call("DELETE", `/sources/${source.id}/mask`); dialog.close(); onSaved(false); };
  dialog.replaceChildren(
    el("h2", { id: "mask-title" }, t("maskTitle")), el("p", { class: "soft small" }, t("maskHelp")),
    el("div", { class: "paint" }, behind, canvas),
    el("div", { class: "controls" }, el("div", { class: "group" }, mode("paint", false), mode("erase", true)), el("label", { class: "row small" }, t("brush"), brush), Object.keys(REGIONS).map(region)),
    el("div", { class: "row end controls" }, el("button", { type: "button", onclick: () => context.clearRect(0, 0, width, height) }, t("clear")), source.mask ? el("button", { type: "button", onclick: remove }, t("noMask")) : null,
      el("button", { type: "button", onclick: () => dialog.close() }, t("close")), el("button", { type: "button", class: "main save", onclick: save }, t("save"))));
  dialog.showModal();
}
