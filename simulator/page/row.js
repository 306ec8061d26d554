// The row of controls that is sent: where each control stands, and how a push moves it.

const SECONDS_ACROSS = { absolute: 3, gripper: 1 }; // from low to high, while a key is held
const SEEN = 1 / 1.5; // limits are 1.5 times as wide as what the data held; pushes stay within that, sliders go further

/** Targets and openings stay where they are put; deltas, velocities and latent actions fall back to nothing. */
export function stays(column) {
  return column.kind in SECONDS_ACROSS;
}

export class Row {
  /** columns: of the welcome, each with kind, low and high. */
  constructor(columns) {
    this.columns = columns;
    this.values = columns.map((column) => clamp(0, column));
    this.held = columns.map(() => 0); // where a slider or the pad holds what would fall back
  }

  /** The controls in force, as the server says. */
  set(values) {
    this.values = [...values];
    this.held.fill(0);
  }

  /** Put one control somewhere, as a slider does. */
  place(i, value) {
    this.values[i] = clamp(value, this.columns[i]);
    if (!stays(this.columns[i])) this.held[i] = this.values[i];
  }

  /** Let go of a slider or the pad; what falls back does so as time advances. */
  release(i) {
    this.held[i] = 0;
  }

  releaseAll() {
    this.held.fill(0);
  }

  /** pushes: one number from -1 to 1 for each control, held for so many seconds. */
  advance(seconds, pushes) {
    this.columns.forEach((column, i) => {
      const push = Math.max(-1, Math.min(1, pushes[i]));
      if (stays(column)) {
        if (!push) return;
        const rate = (column.high - column.low) / SECONDS_ACROSS[column.kind];
        const { low, high } = seen(column);
        const reach = { low: Math.min(low, this.values[i]), high: Math.max(high, this.values[i]) };
        this.values[i] = clamp(this.values[i] + push * rate * seconds, reach);
      } else {
        this.values[i] = clamp(this.held[i] + SEEN * (push > 0 ? push * column.high : -push * column.low), column);
      }
    });
  }
}

function clamp(value, { low, high }) {
  return Math.max(low, Math.min(high, value));
}

function seen({ kind, low, high }) {
  if (kind === "gripper") return { low, high }; // its limits are what was seen
  const spare = ((1 - SEEN) * (high - low)) / 2;
  return { low: low + spare, high: high - spare };
}
