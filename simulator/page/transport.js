// Buttons and hot keys of the session: the same actions by mouse, finger and keyboard.

import { element } from "./element.js";

// id, key code, what the key is called, label
const ACTIONS = [
  ["toggle", "Enter", "Enter", "Start"],
  ["step", "Period", ".", "Step"],
  ["reset", "Backspace", "⌫", "Reset"],
  ["stop", "Escape", "Esc", "Stop"],
  ["record", "KeyO", "O", "Record"],
  ["keep", "KeyK", "K", "Keep 10 s"],
  ["source", "KeyP", "P", "You drive"],
];
export const DESCRIPTIONS = [
  ["Enter", "start, pause"],
  [".", "one step while paused: four frames"],
  ["⌫", "reset: begin anew from the same picture and seed"],
  ["Esc", "stop"],
  ["O", "record, end the recording"],
  ["K", "keep the last ten seconds as a recording"],
  ["P", "who drives: you, recorded controls, a policy"],
  ["?", "this help"],
];
const SOURCES = { human: "You drive", recorded: "Recorded controls", policy: "Policy drives" };

export class Transport {
  /** Draws its buttons into `place`. act: called with the id of an action. */
  constructor(place, act) {
    this.byCode = new Map(ACTIONS.map(([id, code]) => [code, id]));
    this.buttons = new Map();
    for (const [id, , key, label] of ACTIONS) {
      const text = element("span", { textContent: label });
      const cap = element("kbd", { textContent: key, ariaHidden: "true" });
      const button = element("button", { type: "button" }, text, cap);
      button.dataset.action = id;
      button.addEventListener("click", () => act(id));
      this.buttons.set(id, { button, text });
      place.append(button);
    }
  }

  /** Which action a key stands for, or undefined. */
  action(code) {
    return this.byCode.get(code);
  }

  /** state: the server's; sources: the welcome's. */
  show({ state, recording, source }, sources) {
    const button = (id) => this.buttons.get(id).button;
    this.buttons.get("toggle").text.textContent = state === "running" ? "Pause" : "Start";
    this.buttons.get("record").text.textContent = recording ? "End recording" : "Record";
    this.buttons.get("source").text.textContent = SOURCES[source] ?? source;
    button("record").ariaPressed = recording;
    button("source").hidden = sources.length < 2;
    button("toggle").disabled = state !== "running" && state !== "paused";
    button("step").disabled = state !== "paused";
    button("stop").disabled = state === "stopped";
    button("toggle").classList.toggle("main", state !== "stopped");
    button("reset").classList.toggle("main", state === "stopped");
  }
}
