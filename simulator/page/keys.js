// Keyboard: which keys move which control, and which are held now.

// [less, more] by place on the keyboard; letters that hot keys use are left out.
const PAIRS = [
  ["KeyA", "KeyD"],
  ["KeyS", "KeyW"],
  ["KeyF", "KeyR"],
  ["KeyQ", "KeyE"],
  ["ArrowLeft", "ArrowRight"],
  ["ArrowDown", "ArrowUp"],
  ["KeyJ", "KeyL"],
  ["KeyN", "KeyI"],
  ["KeyZ", "KeyX"],
  ["KeyC", "KeyV"],
  ["KeyT", "KeyY"],
  ["Digit1", "Digit2"],
  ["Digit3", "Digit4"],
  ["Digit5", "Digit6"],
  ["Digit7", "Digit8"],
  ["Digit9", "Digit0"],
];
const GRIPPERS = [
  ["KeyG", "Space"],
  ["KeyB", "KeyH"],
];
const SIGNS = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Space: "Space" };

/** For each column its pair of key codes, or null where keys have run out. In order, grippers from their own list. */
export function assign(columns) {
  const pairs = [...PAIRS];
  const grippers = [...GRIPPERS];
  return columns.map((column) => {
    if (!column.live) return null;
    return (column.kind === "gripper" && grippers.shift()) || pairs.shift() || null;
  });
}

/** What is printed on a key, on this keyboard where the browser tells. */
export async function captions(assigned) {
  const layout = await navigator.keyboard?.getLayoutMap?.().catch(() => null); // not told in a frame or over http
  const caption = (code) => SIGNS[code] ?? (layout?.get(code) ?? code.replace(/^(Key|Digit)/, "")).toUpperCase();
  return assigned.map((pair) => pair?.map(caption) ?? null);
}

export class Keys {
  /** assigned: pairs of key codes by column; lit(i, side, on) is called as keys go down (on) and up. */
  constructor(assigned, lit) {
    this.assigned = assigned;
    this.lit = lit;
    this.places = new Map(); // code -> [column, side 0 or 1]
    assigned.forEach((pair, i) => pair?.forEach((code, side) => this.places.set(code, [i, side])));
    this.held = assigned.map(() => [new Set(), new Set()]); // by column and side: codes, or "touch"
  }

  /** Whether this key moves something. */
  down(code) {
    const place = this.places.get(code);
    if (place) this.hold(...place, code);
    return Boolean(place);
  }

  up(code) {
    const place = this.places.get(code);
    if (place) this.release(...place, code);
  }

  hold(i, side, what = "touch") {
    this.held[i][side].add(what);
    this.lit(i, side, true);
  }

  release(i, side, what = "touch") {
    this.held[i][side].delete(what);
    this.lit(i, side, this.held[i][side].size > 0);
  }

  releaseAll() {
    this.held.forEach((sides, i) =>
      sides.forEach((whats, side) => {
        whats.clear();
        this.lit(i, side, false);
      }),
    );
  }

  /** -1, 0 or 1 for each column. */
  pushes() {
    return this.held.map(([less, more]) => (more.size > 0) - (less.size > 0));
  }
}
