// A slider for each control, in its group, with its name, value and unit, between the two keys that move it.

import { colour } from "./colours.js";
import { element } from "./element.js";

export class Sliders {
  /** Draws into `place`. keys: the Keys that its key caps hold down while they are pressed. */
  constructor(place, row, keys) {
    this.row = row;
    this.keys = keys;
    this.grabbed = new Set(); // columns whose slider a hand is on
    this.drawn = []; // the values that they show
    this.lines = row.columns.map((column, i) => this.#line(column, i));
    const groups = grouped(this.lines);
    place.replaceChildren(
      ...[...groups].map(([name, lines]) => {
        const own = lines.length === 1 && lines[0].column.name === name;
        const legend = element("legend", { className: own ? "hidden" : "", textContent: name });
        return element("fieldset", {}, legend, ...lines.map(({ line }) => line));
      }),
    );
  }

  /** Print what the keys say. */
  caption(captions) {
    this.lines.forEach(({ caps }, i) => caps.forEach((cap, side) => (cap.textContent = captions[i]?.[side] ?? "")));
  }

  light(i, side, on) {
    this.lines[i]?.caps[side].classList.toggle("lit", on);
  }

  /** Move all sliders to where the row stands. */
  refresh() {
    this.lines.forEach(({ slider, output, column }, i) => {
      const value = this.row.values[i];
      if (this.drawn[i] === value) return;
      this.drawn[i] = value;
      if (!this.grabbed.has(i)) slider.value = value;
      output.textContent = shown(value, column);
      slider.setAttribute("aria-valuetext", `${output.textContent} ${column.unit}`);
    });
  }

  #line(column, i) {
    const id = `control-${i}`;
    const slider = element("input", { type: "range", id, min: column.low, max: column.high, step: "any" });
    slider.disabled = !column.live;
    slider.addEventListener("input", () => this.row.place(i, Number(slider.value)));
    slider.addEventListener("pointerdown", () => this.grabbed.add(i));
    for (const end of ["pointerup", "pointercancel", "blur"]) {
      slider.addEventListener(end, () => {
        this.grabbed.delete(i);
        this.row.release(i);
      });
    }
    const output = element("output", { htmlFor: id, textContent: "" });
    const label = element("label", { htmlFor: id }, element("i", { className: "swatch" }), column.name);
    label.firstChild.style.background = colour(i);
    const value = element("span", { className: "value" }, output, element("small", { textContent: column.unit }));
    const caps = [this.#cap(column, i, 0), this.#cap(column, i, 1)];
    const line = element("div", { className: "control" }, label, value, caps[0], slider, caps[1]);
    line.classList.toggle("still", !column.live);
    return { line, slider, output, caps, column };
  }

  /** A key cap: lights up with its key, and works as one under a finger or the mouse. */
  #cap(column, i, side) {
    const words = `${column.name} ${side ? "more" : "less"}`;
    const cap = element("button", { className: "cap", type: "button", ariaLabel: words, tabIndex: -1 });
    cap.dataset.sign = side ? "+" : "−";
    cap.disabled = !column.live;
    cap.addEventListener("pointerdown", (event) => {
      cap.setPointerCapture(event.pointerId);
      this.keys.hold(i, side);
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      cap.addEventListener(end, () => this.keys.release(i, side));
    }
    return cap;
  }
}

function grouped(lines) {
  const groups = new Map();
  for (const line of lines) groups.set(line.column.group, [...(groups.get(line.column.group) ?? []), line]);
  return groups;
}

/** A value with as many digits as its range asks for: three of it. */
function shown(value, { low, high }) {
  const digits = Math.max(0, Math.min(6, 2 - Math.floor(Math.log10(Math.max(Math.abs(low), Math.abs(high), 1e-9)))));
  return value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1");
}
