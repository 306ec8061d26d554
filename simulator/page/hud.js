// The figures: how fast, how late, how much was lost.

import { element } from "./element.js";

// key, name, what it means
const FIGURES = [
  ["fps", "Frames/s", "Frames that appeared in the last second"],
  ["model", "Model", "Milliseconds that the model took for the pass"],
  ["encode", "Encode", "Milliseconds that its JPEGs took"],
  ["trip", "Round trip", "Milliseconds to the server and back"],
  ["age", "Action age", "From sending a control to seeing the first frame that used it, in milliseconds"],
  ["dropped", "Dropped", "Frames that did not appear here: the link or this browser was too slow"],
  ["granularity", "Granularity", "A control can matter this often"],
  ["pass", "Pass", "Number of the model's pass"],
];

export class Hud {
  constructor(place) {
    this.values = new Map();
    this.times = []; // of the frames of the last second
    this.lost = 0;
    this.last = null; // number of the last pass
    place.replaceChildren(
      ...FIGURES.map(([key, name, title]) => {
        const value = element("dd", { textContent: "–" });
        value.dataset.figure = key;
        this.values.set(key, value);
        return element("div", { title }, element("dt", { textContent: name }), value);
      }),
    );
  }

  /** After a welcome: passes are counted from the next on. */
  configure({ granularity_ms: granularity, frames_per_pass: perPass }) {
    this.last = null;
    this.perPass = perPass;
    this.set("granularity", `${Math.round(granularity)} ms`);
  }

  set(key, text) {
    this.values.get(key).textContent = text;
  }

  /** A pass has come with n of its frames: count those that did not, and the passes between. */
  received({ number, n }) {
    if (this.last !== null) this.lost += this.perPass * (number - this.last) - n;
    this.last = number;
  }

  /** Frame i of a pass has appeared. age: of the control that it used, in milliseconds, or null. */
  shown(header, i, age) {
    this.times.push(performance.now());
    if (i > 0) return;
    this.set("model", milliseconds(header.t_model_ms));
    this.set("encode", milliseconds(header.t_encode_ms));
    this.set("age", age === null ? "–" : milliseconds(age));
    this.set("pass", header.number);
  }

  roundTrip(time) {
    this.set("trip", milliseconds(time));
  }

  /** Once in a while. skipped: frames that came but were too late to be shown. */
  refresh(skipped) {
    const since = performance.now() - 1000;
    this.times = this.times.filter((time) => time > since);
    this.set("fps", this.times.length);
    this.set("dropped", this.lost + skipped);
  }
}

function milliseconds(value) {
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
}
