// Drag pad for fingers: moves the first two controls by as much as the finger moves, wherever it was put down.

import { stays } from "./row.js";

export class Pad {
  /** names: elements that say what goes right, and what goes up. */
  constructor(element, dot, names) {
    this.element = element;
    this.dot = dot;
    this.names = names;
    this.finger = null; // {id, x, y, values} of where it was put down
    element.addEventListener("pointerdown", (event) => this.#down(event));
    element.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      element.addEventListener(end, (event) => event.pointerId === this.finger?.id && this.release());
    }
  }

  /** row: the Row that it moves. */
  attach(row) {
    this.row = row;
    this.axes = row.columns.map((_, i) => i).filter((i) => row.columns[i].live && row.columns[i].kind !== "gripper");
    this.axes.length = Math.min(this.axes.length, 2);
    this.element.hidden = this.axes.length === 0;
    this.names.forEach((name, side) => (name.textContent = row.columns[this.axes[side]]?.name ?? ""));
  }

  release() {
    this.finger = null;
    this.axes.forEach((i) => this.row.release(i));
  }

  /** The dot stands where the row does. */
  refresh() {
    const [across, up] = this.axes.map((i) => {
      const { low, high } = this.row.columns[i];
      return (this.row.values[i] - low) / (high - low);
    });
    this.dot.style.setProperty("--across", across ?? 0.5);
    this.dot.style.setProperty("--up", up ?? 0.5);
  }

  #down(event) {
    if (this.finger || !this.row) return;
    event.preventDefault();
    this.element.setPointerCapture(event.pointerId);
    const values = this.axes.map((i) => (stays(this.row.columns[i]) ? this.row.values[i] : 0));
    this.finger = { id: event.pointerId, x: event.clientX, y: event.clientY, values };
  }

  #move(event) {
    if (event.pointerId !== this.finger?.id) return;
    const moved = [
      (event.clientX - this.finger.x) / this.element.clientWidth,
      (this.finger.y - event.clientY) / this.element.clientHeight,
    ];
    this.axes.forEach((i, side) => {
      const { low, high } = this.row.columns[i];
      this.row.place(i, this.finger.values[side] + moved[side] * (high - low));
    });
  }
}
