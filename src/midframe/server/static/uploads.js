// Uploads: dropped anywhere or chosen, several at once, resumed after a broken connection or a reload.

import { ApiError, $, call, el, report, store, stored } from "./base.js";
import { bytes, t } from "./words.js";

const PIECE = 8 * 1024 * 1024; // bytes of one PUT: small enough to lose little, large enough to be quick
const waiting = [];
let busy = false;
export const uploading = new Set(); // ids of sources whose bytes come from this page

export function addFiles(files, onSource) {
  let first = true; // of what was given at once: the one to show
  for (const file of files) {
    const text = el("span", { class: "small soft grow" }, t("waitingUpload", { name: file.name }));
    const bar = el("progress", { max: String(file.size), value: 0, "aria-label": t("uploading", { name: file.name }) });
    const upload = { file, first, onSource, text, bar, stop: false };
    first = false;
    upload.box = el("div", { class: "upload" },
      el("div", { class: "row" }, text, el("button", { type: "button", onclick: () => { upload.stop = true; if (waiting.includes(upload)) { waiting.splice(waiting.indexOf(upload), 1); upload.box.remove(); } } }, t("stopUpload"))), bar);
    $("uploads").append(upload.box);
    waiting.push(upload);
  }
  next();
}

async function next() {
  if (busy) return;
  busy = true;
  while (waiting.length) {
    const upload = waiting.shift();
    try { await send(upload); } catch (error) { report(error); }
    upload.box.remove();
  }
  busy = false;
}

async function send(upload) {
  const { file, text, bar } = upload;
  const key = `upload ${file.name} ${file.size} ${file.lastModified}`;
  let source = null;
  const known = stored(key);
  if (known) source = await call("GET", `/sources/${known}`).catch(() => null);
  if (source?.state !== "receiving") source = await call("POST", "/sources", { name: file.name, size: file.size });
  store(key, source.id);
  uploading.add(source.id);
  let wait = 500;
  while (source.state === "receiving" && !upload.stop) {
    try {
      const from = source.received;
      source = await call("PUT", `/sources/${source.id}/content?offset=${from}`, file.slice(from, from + PIECE));
      bar.value = source.received;
      text.textContent = `${t("uploading", { name: file.name })} · ${bytes(source.received)} / ${bytes(file.size)}`;
      wait = 500;
    } catch (error) {
      if (error instanceof ApiError && ![409, 429].includes(error.status)) { report(error); break; }
      text.textContent = t("uploadWaits", { size: bytes(source.received) });
      await new Promise((done) => setTimeout(done, wait));
      wait = Math.min(wait * 2, 10000);
      try { source = await call("GET", `/sources/${source.id}`); } catch (again) { if (again instanceof ApiError && again.status === 404) break; }
    }
  }
  uploading.delete(source.id);
  store(key, null);
  if (upload.stop) await call("DELETE", `/sources/${source.id}`).catch(() => {});
  else upload.onSource(source, upload.first);
}

// The whole window takes files; what is dragged within the page does not count.
export function acceptDrops(onSource) {
  const holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  let depth = 0;
  const over = (on) => document.body.classList.toggle("dropping", on);
  addEventListener("dragenter", (event) => { if (holdsFiles(event)) { event.preventDefault(); depth += 1; over(true); } });
  addEventListener("dragover", (event) => { if (holdsFiles(event)) event.preventDefault(); });
  addEventListener("dragleave", (event) => { if (holdsFiles(event)) { depth -= 1; over(depth > 0); } });
  addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    depth = 0;
    over(false);
    addFiles(event.dataTransfer.files, onSource);
  });
  const input = $("file");
  input.addEventListener("change", () => { addFiles([...input.files], onSource); input.value = ""; });
}
