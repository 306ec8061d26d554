// The controls as the model used them, over the last ten seconds of the film: one line for each.

import { colour, dash } from "./colours.js";
import { element } from "./element.js";

const SECONDS = 10;
const MARGIN = 4; // pixels

export class Plot {
  constructor(canvas, legend) {
    this.canvas = canvas;
    this.legend = legend;
    this.rows = [];
    new ResizeObserver(() => this.#draw()).observe(canvas);
  }

  configure({ columns, fps }) {
    this.columns = columns.map((column, i) => ({ ...column, i })).filter((column) => column.live);
    this.length = Math.round(SECONDS * fps);
    this.legend.replaceChildren(
      ...this.columns.map(({ name, i }) => {
        const swatch = element("i", { className: "swatch" });
        swatch.style.background = colour(i);
        return element("li", {}, swatch, name);
      }),
    );
    this.clear();
  }

  clear() {
    this.rows = [];
    this.#draw();
  }

  /** rows: of the pass that is shown now; one drawing for each pass. */
  add(rows) {
    this.rows.push(...rows);
    this.rows.splice(0, Math.max(0, this.rows.length - this.length));
    this.#draw();
  }

  #draw() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!this.columns || !width) return;
    const scale = window.devicePixelRatio;
    Object.assign(this.canvas, { width: width * scale, height: height * scale });
    const context = this.canvas.getContext("2d");
    context.scale(scale, scale);
    context.lineWidth = 1.5;
    context.lineJoin = "round";
    const x = (at) => width - ((this.rows.length - 1 - at) * width) / (this.length - 1);
    for (const { i, low, high } of this.columns) {
      const y = (value) => height - MARGIN - ((value - low) / (high - low)) * (height - 2 * MARGIN);
      context.strokeStyle = colour(i);
      context.setLineDash(dash(i));
      context.beginPath();
      this.rows.forEach((row, at) => context.lineTo(x(at), y(row[i])));
      context.stroke();
    }
  }
}
