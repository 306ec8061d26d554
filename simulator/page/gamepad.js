// Gamepad: sticks, pad and triggers push the controls in order; a lamp says that one is there.

const DEAD_ZONE = 0.15;
const START = 9;
const BACK = 8;

// What pushes the first, second, ... control that is no gripper, of the standard layout: value -> -1 .. 1.
const STICKS = [
  (pad) => axis(pad, 0),
  (pad) => -axis(pad, 1),
  (pad) => -axis(pad, 3),
  (pad) => axis(pad, 2),
  (pad) => button(pad, 15) - button(pad, 14),
  (pad) => button(pad, 12) - button(pad, 13),
  (pad) => button(pad, 2) - button(pad, 3),
];
const GRIPPERS = [
  (pad) => Math.max(button(pad, 7), button(pad, 0)) - Math.max(button(pad, 6), button(pad, 1)),
  (pad) => button(pad, 5) - button(pad, 4),
];

export class Gamepad {
  /** Calls back: pressed("toggle" | "reset") for Start and Back, present(name or null) as one comes and goes. */
  constructor(columns, pressed, present) {
    const sticks = [...STICKS];
    const grippers = [...GRIPPERS];
    const none = () => 0;
    this.sources = columns.map((column) => {
      if (!column.live) return none;
      return (column.kind === "gripper" ? grippers : sticks).shift() ?? none;
    });
    this.pressed = pressed;
    this.present = present;
    this.name = null;
    this.before = { start: true, back: true }; // a button that is down as the pad comes in does nothing
  }

  /** -1 .. 1 for each column; looks at the device now. */
  pushes() {
    const pad = navigator.getGamepads?.().find((found) => found?.connected) ?? null;
    const name = pad?.id ?? null;
    if (name !== this.name) this.present((this.name = name));
    if (!pad) {
      this.before = { start: true, back: true };
      return this.sources.map(() => 0);
    }
    const now = { start: button(pad, START) > 0.5, back: button(pad, BACK) > 0.5 };
    if (now.start && !this.before.start) this.pressed("toggle");
    if (now.back && !this.before.back) this.pressed("reset");
    this.before = now;
    return this.sources.map((source) => source(pad));
  }
}

/** 0 within the dead zone, and from there evenly to 1. */
function axis(pad, i) {
  const value = pad.axes[i] ?? 0;
  return Math.sign(value) * Math.max(0, (Math.abs(value) - DEAD_ZONE) / (1 - DEAD_ZONE));
}

function button(pad, i) {
  return pad.buttons[i]?.value ?? 0;
}
