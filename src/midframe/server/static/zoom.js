// Zoom and pan of several videos that lie over each other or side by side, always the same for all of them.

const MOST = 8;

export class Zoom {
  constructor(stage, videos, overlays, onChange) { // overlays move with the videos under them
    Object.assign(this, { stage, videos, overlays, onChange, scale: 1, x: 0.5, y: 0.5, pointers: new Map() }); // x, y: centre of what is seen, as shares of the frame
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.by(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), this.shareAt(event));
    }, { passive: false });
    stage.addEventListener("dblclick", (event) => { if (this.scale > 1) this.reset(); else this.by(3, this.shareAt(event)); });
  }

  // The point under a pointer as shares of its own video's box.
  shareAt(event) {
    const box = this.boxAt(event);
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  boxAt(event) {
    const boxes = this.videos.map((video) => video.parentElement.getBoundingClientRect());
    return boxes.find((box) => event.clientX >= box.left && event.clientX <= box.right && event.clientY >= box.top && event.clientY <= box.bottom) ?? boxes.at(-1);
  }

  // What is under the point stays under it.
  by(factor, [px, py] = [0.5, 0.5]) {
    const next = Math.min(MOST, Math.max(1, this.scale * factor));
    const atX = this.x + (px - 0.5) / this.scale, atY = this.y + (py - 0.5) / this.scale;
    this.x = atX - (px - 0.5) / next;
    this.y = atY - (py - 0.5) / next;
    this.scale = next < 1.01 ? 1 : next;
    this.apply();
  }

  reset() { Object.assign(this, { scale: 1, x: 0.5, y: 0.5 }); this.apply(); }

  apply() {
    const half = 0.5 / this.scale, within = (value) => Math.min(1 - half, Math.max(half, value));
    this.x = within(this.x);
    this.y = within(this.y);
    for (const one of [...this.videos, ...this.overlays]) one.style.transform = this.scale === 1 ? "" : `translate(${(0.5 - this.x * this.scale) * 100}%, ${(0.5 - this.y * this.scale) * 100}%) scale(${this.scale})`;
    this.onChange(this.scale);
  }

  note(event) { if (this.pointers.has(event.pointerId)) this.pointers.set(event.pointerId, event); }

  // One pointer moves the frame, two pinch it.
  down(event) {
    this.pointers.set(event.pointerId, event);
    if (this.scale > 1 || this.pointers.size > 1) { this.stage.setPointerCapture(event.pointerId); event.preventDefault(); }
  }

  move(event) {
    const old = this.pointers.get(event.pointerId);
    if (!old) return;
    const box = this.boxAt(event);
    const other = [...this.pointers.values()].find((pointer) => pointer.pointerId !== event.pointerId);
    this.pointers.set(event.pointerId, event);
    if (other) {
      const apart = (a, b) => Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
      const middle = { clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 };
      this.by(apart(event, other) / Math.max(1, apart(old, other)), this.shareAt(middle));
    }
    if (this.scale === 1) return;
    const share = other ? 0.5 : 1; // with two fingers each moves the middle by half
    this.x -= share * (event.clientX - old.clientX) / box.width / this.scale;
    this.y -= share * (event.clientY - old.clientY) / box.height / this.scale;
    this.apply();
  }

  up(event) { this.pointers.delete(event.pointerId); }
}
